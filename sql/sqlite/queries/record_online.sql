-- Records that an instance is alive since an epoch, unless a later one is known. A new
-- life of an instance that was never recorded as gone changes its epoch and is no
-- transition.
-- Called by RegistryTransaction::record_online, once for each.
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
       ttl_seconds, status, held_by, held_reason,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
