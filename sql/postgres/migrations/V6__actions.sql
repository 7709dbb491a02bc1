-- A hold may end by itself: then the instance is enabled.
ALTER TABLE instance
    ADD COLUMN IF NOT EXISTS held_until timestamptz CHECK (held_until IS NULL OR status = 'held');

-- The actions of operators. Rows are only inserted, and deleted after --keep-audit.
CREATE TABLE IF NOT EXISTS action (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    -- The operator: the name of the token, and the address of the client.
    token   text        NOT NULL,
    peer    text        NOT NULL,
    action  text        NOT NULL,
    -- The scope and the address; NULL for an action on several scopes, or on no instance.
    kind    text,
    key     text,
    address text,
    -- The changed fields.
    before  jsonb       NOT NULL,
    after   jsonb       NOT NULL,
    reason  text,
    -- The number of changed instances.
    count   bigint      NOT NULL
);

CREATE INDEX IF NOT EXISTS action_by_time ON action (at);
