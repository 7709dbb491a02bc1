-- Every instance of a kind of scope with its status and nothing else, to be counted.
-- Called by RegistryReader::list_statuses.
-- ?1 kind
SELECT scope.kind, scope.key, instance.address, instance.status
FROM instance
JOIN scope ON scope.id = instance.scope_id
WHERE scope.kind = ?1
