-- Removes an instance. No row where it is unknown.
-- Called by RegistryTransaction::deregister_instance.
-- $1 kind, $2 key, $3 address
DELETE FROM instance
USING scope
WHERE scope.id = instance.scope_id AND scope.kind = $1 AND scope.key = $2 AND instance.address = $3
RETURNING instance.id
