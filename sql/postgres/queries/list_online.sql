-- A page of the instances that are recorded as online, by id.
-- Called by RegistryReader::list_online.
-- $1 the id before the page, $2 how many at most
SELECT instance.id, scope.kind, scope.key, instance.address, instance.lease_epoch
FROM instance
JOIN scope ON scope.id = instance.scope_id
WHERE instance.online AND instance.lease_epoch IS NOT NULL AND instance.id > $1
ORDER BY instance.id
LIMIT $2
