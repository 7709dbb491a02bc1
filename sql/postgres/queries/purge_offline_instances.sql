-- Removes instances that have been offline and unchanged since a time. Held ones stay, because
-- only an operator ends a hold.
-- Called by RegistryTransaction::purge_offline_instances.
-- $1 the time, $2 the limit
WITH purged AS (
    SELECT instance.id
    FROM instance
    WHERE NOT instance.online AND instance.status <> 'held'
      AND GREATEST(instance.online_changed_at, instance.updated_at) < $1
    ORDER BY instance.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM instance
USING purged, scope
WHERE instance.id = purged.id AND scope.id = instance.scope_id
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
