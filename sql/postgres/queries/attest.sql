-- Records which lease store a replica uses and what it says about itself, and returns what the other replicas recorded
-- within the last 5 seconds.
-- Called by RegistryTransaction::attest.
-- $1 replica, $2 lease store, $3 state
WITH own AS (
    INSERT INTO replica (id, lease_store, state, seen_at)
    VALUES ($1::text, $2::text, $3::jsonb, clock_timestamp())
    ON CONFLICT (id) DO UPDATE
    SET lease_store = excluded.lease_store,
        state       = excluded.state,
        seen_at     = excluded.seen_at
), ended AS (
    DELETE FROM replica
    WHERE id IN (
        SELECT id
        FROM replica
        WHERE id <> $1::text AND seen_at < clock_timestamp() - interval '1 minute'
        -- Another replica may remove the old rows at this moment.
        FOR UPDATE SKIP LOCKED
    )
)
SELECT id, lease_store, state
FROM replica
WHERE id <> $1::text AND seen_at > clock_timestamp() - interval '5 seconds'
