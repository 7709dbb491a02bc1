-- Removes instances that have been offline, and have not been changed, since a time;
-- those that are held stay, since nothing but an operator ends a hold.
-- Called by RegistryTransaction::forget_instances.
-- $1 that time, $2 how many at most
WITH forgotten AS (
    SELECT instance.id
    FROM instance
    WHERE NOT instance.online AND instance.status <> 'held'
      AND GREATEST(instance.online_changed_at, instance.updated_at) < $1
    ORDER BY instance.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM instance
USING forgotten, scope
WHERE instance.id = forgotten.id AND scope.id = instance.scope_id
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
