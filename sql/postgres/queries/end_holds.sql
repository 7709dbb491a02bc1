-- Enables the instances whose holds have ended.
-- Called by RegistryTransaction::end_holds.
-- $1 now, $2 the most rows
UPDATE instance
SET status      = 'enabled',
    held_by     = NULL,
    held_reason = NULL,
    held_until  = NULL,
    updated_at  = $1,
    revision    = instance.revision + 1
FROM scope
WHERE scope.id = instance.scope_id AND instance.id IN (
    SELECT ended.id FROM instance AS ended
    WHERE ended.status = 'held' AND ended.held_until <= $1
    LIMIT $2
    -- Another replica may end them at this moment.
    FOR UPDATE SKIP LOCKED
)
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
