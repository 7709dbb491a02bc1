-- Returns a scope by its key.
-- Called by RegistryReader::find_scope and RegistryTransaction::delete_scope.
-- $1 kind, $2 key
SELECT id, kind, key, name, created_at, revision
FROM scope
WHERE kind = $1 AND key = $2
