-- Groups, services and their instances.
--
-- A column that may be NULL holds what was given; its default is applied where
-- it is shown, so that a later registration can leave out what it does not change.

CREATE TABLE scope (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('group', 'service')),
    key        text        NOT NULL,
    name       text,
    created_at timestamptz NOT NULL,
    -- 1 as inserted, one more with every change.
    revision   bigint      NOT NULL DEFAULT 1,
    UNIQUE (kind, key)
);

CREATE TABLE instance (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope_id          bigint      NOT NULL REFERENCES scope (id),
    address           text        NOT NULL,
    name              text,
    weight            integer     CHECK (weight BETWEEN 0 AND 65535),
    metadata          jsonb,
    ttl_seconds       integer     CHECK (ttl_seconds BETWEEN 5 AND 3600),
    status            text        NOT NULL CHECK (status IN ('enabled', 'disabled', 'held')),
    held_by           text,
    held_reason       text,
    -- What the lease said last: whether it was alive, the start of its life in Unix
    -- milliseconds of the lease store's clock, and when that was recorded.
    online            boolean     NOT NULL DEFAULT false,
    lease_epoch       bigint,
    online_changed_at timestamptz,
    registered_at     timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    -- 1 as inserted, one more with every change.
    revision          bigint      NOT NULL DEFAULT 1,
    UNIQUE (scope_id, address),
    CHECK ((status = 'held') = (held_by IS NOT NULL)),
    CHECK (held_reason IS NULL OR status = 'held')
);
