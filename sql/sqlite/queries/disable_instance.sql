-- Disables a service instance by its id; one that is held stays held.
-- Called by RegistryTransaction::disable_service_instance.
-- ?1 id, ?2 now
UPDATE instance
SET status     = CASE status WHEN 'held' THEN 'held' ELSE 'disabled' END,
    updated_at = ?2,
    revision   = revision + 1
WHERE id = ?1 AND scope_id IN (SELECT scope.id FROM scope WHERE scope.kind = 'service')
RETURNING id
