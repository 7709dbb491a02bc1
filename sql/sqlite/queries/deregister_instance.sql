-- Removes an instance. No row where it is unknown.
-- Called by RegistryTransaction::deregister_instance.
-- ?1 kind, ?2 key, ?3 address
DELETE FROM instance
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
RETURNING id
