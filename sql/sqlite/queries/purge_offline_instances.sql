-- Removes instances that have been offline and unchanged since a time. Held ones stay, because
-- only an operator ends a hold.
-- Called by RegistryTransaction::purge_offline_instances.
-- ?1 the time, ?2 the limit
DELETE FROM instance
WHERE id IN (
    SELECT id
    FROM instance
    WHERE NOT online AND status <> 'held'
      AND MAX(COALESCE(online_changed_at, 0), updated_at) < ?1
    ORDER BY id
    LIMIT ?2
)
RETURNING id, (SELECT scope.kind FROM scope WHERE scope.id = scope_id) AS kind,
       (SELECT scope.key FROM scope WHERE scope.id = scope_id) AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
