-- Marks an instance offline, or only one to which an operator's decision is attached
-- (Instance::is_decided). Returns no row for any other instance, and none if it is offline already.
-- Called by RegistryTransaction::take_offline.
-- $1 kind, $2 key, $3 address, $4 now, $5 whether only decided ones
UPDATE instance
SET online            = false,
    online_changed_at = $4::timestamptz,
    revision          = instance.revision + 1
FROM scope
WHERE scope.id = instance.scope_id AND scope.kind = $1 AND scope.key = $2 AND instance.address = $3
  AND instance.online
  AND (NOT $5 OR instance.status = 'held' OR (scope.kind = 'group' AND instance.status = 'enabled')
     OR instance.override_weight IS NOT NULL OR instance.override_metadata IS NOT NULL)
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
