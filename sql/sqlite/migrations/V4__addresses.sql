-- An address has a normal form: a host name in lower case, an IPv6 address as RFC 5952 writes
-- it. Of several rows that are the same instance the latest one stays. The daemon provides
-- normal_address while it migrates.

DELETE FROM instance
WHERE EXISTS (
    SELECT 1 FROM instance AS later
    WHERE later.scope_id = instance.scope_id
      AND later.id > instance.id
      AND normal_address(later.address) = normal_address(instance.address)
);

UPDATE instance
SET address  = normal_address(address),
    revision = revision + 1
WHERE address <> normal_address(address);
