-- An address has a normal form: a host name in lower case, an IPv6 address as RFC 5952 writes
-- it. Of several rows that are the same instance the latest one stays.

CREATE FUNCTION pg_temp.normal_address(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN address LIKE '[%'
        THEN '[' || host(split_part(substr(address, 2), ']', 1)::inet) || ']' || split_part(address, ']', 2)
        ELSE lower(address)
    END
$$;

DELETE FROM instance
USING instance AS later
WHERE later.scope_id = instance.scope_id
  AND later.id > instance.id
  AND pg_temp.normal_address(later.address) = pg_temp.normal_address(instance.address);

UPDATE instance
SET address  = pg_temp.normal_address(address),
    revision = revision + 1
WHERE address <> pg_temp.normal_address(address);

DROP FUNCTION pg_temp.normal_address(text);
