-- What a running replica says about itself, for operators; NULL for one of an earlier version.
ALTER TABLE replica ADD COLUMN IF NOT EXISTS state jsonb;
