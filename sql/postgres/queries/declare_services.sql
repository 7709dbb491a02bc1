-- Declares the unknown services, and returns them.
-- Called by RegistryTransaction::register_instances, before the first instances of services.
-- $1 keys, $2 now
INSERT INTO scope (kind, key, created_at, declared)
SELECT DISTINCT 'service', given.key COLLATE "C" AS key, $2::timestamptz, false
FROM unnest($1::text[]) AS given (key)
WHERE NOT EXISTS (SELECT FROM scope WHERE scope.kind = 'service' AND scope.key = given.key)
ORDER BY key
ON CONFLICT (kind, key) DO NOTHING
RETURNING id, kind, key, name, created_at, revision
