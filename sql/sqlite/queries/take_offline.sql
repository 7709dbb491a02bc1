-- Marks an instance offline, or only one to which an operator's decision is attached
-- (Instance::is_decided). Returns no row for any other instance, and none if it is offline already.
-- Called by RegistryTransaction::take_offline.
-- ?1 kind, ?2 key, ?3 address, ?4 now, ?5 whether only decided ones
UPDATE instance
SET online            = 0,
    online_changed_at = ?4,
    revision          = revision + 1
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND online
  AND (NOT ?5 OR status = 'held' OR (?1 = 'group' AND status = 'enabled')
     OR override_weight IS NOT NULL OR override_metadata IS NOT NULL)
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
