-- Marks instances online if the lease is newer than the recorded one. For an instance that is
-- recorded as online, this changes the epoch and is no transition. Returns only what the caller does
-- not know: all columns of a thousand rows would take longer than the update.
-- Called by RegistryTransaction::record_online.
-- $1 kinds, $2 keys, $3 addresses, $4 epochs, $5 now
WITH earlier AS (
    -- The rows are locked, so the places at which they are remain the same.
    SELECT instance.ctid AS place, instance.online, given.epoch, given.number
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
        WITH ORDINALITY AS given (kind, key, address, epoch, number)
    JOIN scope ON scope.kind = given.kind AND scope.key = given.key
    JOIN instance ON instance.scope_id = scope.id AND instance.address = given.address
    WHERE instance.lease_epoch IS NULL OR instance.lease_epoch < given.epoch
    -- The same order on all replicas, so that two batches cannot deadlock.
    ORDER BY instance.id
    FOR UPDATE OF instance
)
UPDATE instance
SET online            = true,
    lease_epoch       = earlier.epoch,
    online_changed_at = CASE WHEN earlier.online THEN instance.online_changed_at ELSE $5::timestamptz END,
    revision          = instance.revision + 1
FROM earlier
WHERE instance.ctid = earlier.place
RETURNING earlier.number, instance.id, instance.online_changed_at, instance.revision, NOT earlier.online AS transition
