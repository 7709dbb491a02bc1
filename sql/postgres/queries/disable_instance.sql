-- Disables a service instance by its id; one that is held stays held.
-- Called by RegistryTransaction::disable_service_instance.
-- $1 id, $2 now
UPDATE instance
SET status     = CASE instance.status WHEN 'held' THEN 'held' ELSE 'disabled' END,
    updated_at = $2,
    revision   = instance.revision + 1
FROM scope
WHERE scope.id = instance.scope_id AND scope.kind = 'service' AND instance.id = $1
RETURNING instance.id
