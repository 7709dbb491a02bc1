-- A hold may end by itself: then the instance is enabled.
ALTER TABLE instance ADD COLUMN held_until INTEGER CHECK (held_until IS NULL OR status = 'held');

-- The actions of operators. Rows are only inserted, and deleted after --keep-audit.
CREATE TABLE action (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    -- The operator: the name of the token, and the address of the client.
    token   TEXT    NOT NULL,
    peer    TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    -- The scope and the address; NULL for an action on several scopes, or on no instance.
    kind    TEXT,
    key     TEXT,
    address TEXT,
    -- The changed fields, as JSON.
    before  TEXT    NOT NULL,
    after   TEXT    NOT NULL,
    reason  TEXT,
    -- The number of changed instances.
    count   INTEGER NOT NULL
) STRICT;

CREATE INDEX action_by_time ON action (at);
