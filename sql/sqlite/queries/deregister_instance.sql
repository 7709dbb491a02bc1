-- Removes an instance, and returns its last state. Returns no row if it is unknown, or if an
-- operator's decision is attached to it (Instance::is_decided) and these are kept.
-- Called by RegistryTransaction::deregister_instance.
-- ?1 kind, ?2 key, ?3 address, ?4 whether decided instances are kept
DELETE FROM instance
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND NOT (?4 AND (status = 'held' OR (?1 = 'group' AND status = 'enabled')
     OR override_weight IS NOT NULL OR override_metadata IS NOT NULL))
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
