-- Groups, services and their instances. Times are Unix milliseconds.
--
-- A column that may be NULL holds what was given; its default is applied where
-- it is shown, so that a later registration can leave out what it does not change.

CREATE TABLE scope (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL CHECK (kind IN ('group', 'service')),
    key        TEXT    NOT NULL,
    name       TEXT,
    created_at INTEGER NOT NULL,
    -- 1 as inserted, one more with every change.
    revision   INTEGER NOT NULL DEFAULT 1,
    UNIQUE (kind, key)
) STRICT;

CREATE TABLE instance (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    scope_id          INTEGER NOT NULL REFERENCES scope (id),
    address           TEXT    NOT NULL,
    name              TEXT,
    weight            INTEGER CHECK (weight BETWEEN 0 AND 65535),
    metadata          TEXT,
    ttl_seconds       INTEGER CHECK (ttl_seconds BETWEEN 5 AND 3600),
    status            TEXT    NOT NULL CHECK (status IN ('enabled', 'disabled', 'held')),
    held_by           TEXT,
    held_reason       TEXT,
    -- What the lease said last: whether it was alive, the start of its life in Unix
    -- milliseconds of the lease store's clock, and when that was recorded.
    online            INTEGER NOT NULL DEFAULT 0 CHECK (online IN (0, 1)),
    lease_epoch       INTEGER,
    online_changed_at INTEGER,
    registered_at     INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    -- 1 as inserted, one more with every change.
    revision          INTEGER NOT NULL DEFAULT 1,
    UNIQUE (scope_id, address),
    CHECK ((status = 'held') = (held_by IS NOT NULL)),
    CHECK (held_reason IS NULL OR status = 'held')
) STRICT;
