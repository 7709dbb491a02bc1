-- Declares a scope, or renames a known one if a name is given.
-- Called by RegistryTransaction::declare_scope.
-- $1 kind, $2 key, $3 name or NULL, $4 now
INSERT INTO scope AS known (kind, key, name, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (kind, key) DO UPDATE
SET name = COALESCE(excluded.name, known.name), declared = true, revision = known.revision + 1
RETURNING id, kind, key, name, created_at, revision, revision = 1 AS created
