-- Removes a service that has no instances and was declared by its first instance alone, and
-- returns it.
-- Called by RegistryTransaction::deregister_instance and purge_offline_instances, once per service.
-- ?1 key
DELETE FROM scope
WHERE kind = 'service' AND key = ?1 AND NOT declared
  AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.scope_id = scope.id)
RETURNING id, kind, key, name, created_at, revision
