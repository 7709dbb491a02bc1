-- Marks instances online if the lease is newer than the recorded one. For an instance that is
-- recorded as online, this changes the epoch and is no transition.
-- Called by RegistryTransaction::record_online.
-- $1 kinds, $2 keys, $3 addresses, $4 epochs, $5 now
WITH earlier AS (
    SELECT instance.id, instance.online, given.epoch
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS given (kind, key, address, epoch)
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
FROM earlier, scope
WHERE instance.id = earlier.id AND scope.id = instance.scope_id
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision,
       NOT earlier.online AS transition
