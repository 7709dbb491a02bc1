-- Returns all scopes.
-- Called by RegistryReader::list_scopes.
SELECT id, kind, key, name, created_at, revision
FROM scope
