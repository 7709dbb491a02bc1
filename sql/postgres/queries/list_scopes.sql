-- The scopes of a kind, by key.
-- Called by RegistryReader::list_scopes.
-- $1 kind
SELECT id, kind, key, name, created_at
FROM scope
WHERE kind = $1
ORDER BY key COLLATE "C"
