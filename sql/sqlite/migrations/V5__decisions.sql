-- An operator's values win over those that the instance registers, and outlive its
-- registrations. The other columns keep what the instance gave.

ALTER TABLE instance ADD COLUMN override_weight INTEGER CHECK (override_weight BETWEEN 0 AND 65535);
ALTER TABLE instance ADD COLUMN override_metadata TEXT;
-- The name of the token and the address of the client that registered it last, separated by a
-- space.
ALTER TABLE instance ADD COLUMN registered_by TEXT;

-- Whether a service was declared by itself, and not by its first instance alone: then it stays
-- without instances. Of older rows this is not known.
ALTER TABLE scope ADD COLUMN declared INTEGER NOT NULL DEFAULT 1;
