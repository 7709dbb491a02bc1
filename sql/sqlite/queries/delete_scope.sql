-- Removes a scope that has no instances. Returns no row if it has some or is unknown.
-- Called by RegistryTransaction::delete_scope.
-- ?1 kind, ?2 key
DELETE FROM scope
WHERE kind = ?1 AND key = ?2
  AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.scope_id = scope.id)
RETURNING id, kind, key, name, created_at, revision
