-- Removes those of the given services that have no instances and were declared by their first
-- instance alone, and returns them.
-- Called by RegistryTransaction::deregister_instance and purge_offline_instances.
-- $1 keys
DELETE FROM scope
WHERE kind = 'service' AND key = ANY($1::text[]) AND NOT declared
  AND NOT EXISTS (SELECT FROM instance WHERE instance.scope_id = scope.id)
RETURNING id, kind, key, name, created_at, revision
