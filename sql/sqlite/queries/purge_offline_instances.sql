-- Removes instances that have been offline, and have not been changed, since a time;
-- those that are held stay, since nothing but an operator ends a hold.
-- Called by RegistryTransaction::forget_instances.
-- ?1 that time, ?2 how many at most
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
       ttl_seconds, status, held_by, held_reason,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
