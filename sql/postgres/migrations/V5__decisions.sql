-- An operator's values win over those that the instance registers, and outlive its
-- registrations. The other columns keep what the instance gave.

ALTER TABLE instance
    ADD COLUMN IF NOT EXISTS override_weight   integer CHECK (override_weight BETWEEN 0 AND 65535),
    ADD COLUMN IF NOT EXISTS override_metadata jsonb,
    -- The name of the token and the address of the client that registered it last, separated
    -- by a space.
    ADD COLUMN IF NOT EXISTS registered_by     text;

-- Whether a service was declared by itself, and not by its first instance alone: then it stays
-- without instances. Of older rows this is not known.
ALTER TABLE scope ADD COLUMN IF NOT EXISTS declared boolean NOT NULL DEFAULT true;
