-- Marks an instance offline if the lease that ended is still the recorded one.
-- Called by RegistryTransaction::record_offline, once per instance.
-- ?1 kind, ?2 key, ?3 address, ?4 epoch, ?5 now
UPDATE instance
SET online            = 0,
    online_changed_at = ?5,
    revision          = revision + 1
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND online AND lease_epoch = ?4
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
