-- Marks an instance online if the lease is newer than the recorded one. For an instance that
-- is recorded as online, this changes the epoch and is no transition.
-- Called by RegistryTransaction::record_online, once per instance.
-- ?1 kind, ?2 key, ?3 address, ?4 epoch, ?5 now
UPDATE instance
SET online            = 1,
    lease_epoch       = ?4,
    online_changed_at = CASE WHEN online THEN online_changed_at ELSE ?5 END,
    revision          = revision + 1
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND (lease_epoch IS NULL OR lease_epoch < ?4)
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
