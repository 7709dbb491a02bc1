-- Returns a scope by its ID.
-- Called by RegistryReader::find_scope_by_id.
-- ?1 id
SELECT id, kind, key, name, created_at, revision
FROM scope
WHERE id = ?1
