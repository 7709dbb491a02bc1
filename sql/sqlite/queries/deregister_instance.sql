-- Removes an instance, and returns its last state. Returns no row if it is unknown.
-- Called by RegistryTransaction::deregister_instance.
-- ?1 kind, ?2 key, ?3 address
DELETE FROM instance
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
       ttl_seconds, status, held_by, held_reason,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
