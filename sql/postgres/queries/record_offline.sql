-- Marks instances offline if the lease that ended is still the recorded one.
-- Called by RegistryTransaction::record_offline.
-- $1 kinds, $2 keys, $3 addresses, $4 epochs, $5 now
WITH ended AS (
    SELECT instance.id
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS given (kind, key, address, epoch)
    JOIN scope ON scope.kind = given.kind AND scope.key = given.key
    JOIN instance ON instance.scope_id = scope.id AND instance.address = given.address
    WHERE instance.online AND instance.lease_epoch = given.epoch
    -- The same order on all replicas, so that two batches cannot deadlock.
    ORDER BY instance.id
    FOR UPDATE OF instance
)
UPDATE instance
SET online            = false,
    online_changed_at = $5::timestamptz,
    revision          = instance.revision + 1
FROM ended, scope
WHERE instance.id = ended.id AND scope.id = instance.scope_id
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
