-- Marks an instance online if the lease is newer than the recorded one. For an instance that
-- is recorded as online, this changes the epoch and is no transition.
-- Called by RegistryTransaction::record_online, for each instance: for one that is recorded as offline,
-- and if that changes no row, for one that is recorded as online.
-- ?1 kind, ?2 key, ?3 address, ?4 epoch, ?5 now, ?6 whether it is recorded as online
UPDATE instance
SET online            = 1,
    lease_epoch       = ?4,
    online_changed_at = CASE WHEN online THEN online_changed_at ELSE ?5 END,
    revision          = revision + 1
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND online = ?6
  AND (lease_epoch IS NULL OR lease_epoch < ?4)
RETURNING id, online_changed_at, revision
