-- Registers an instance. A new gateway is disabled, a new service instance enabled;
-- a known service instance that is disabled is enabled again. What is NULL leaves
-- what is there. Changes no row for a registration that changes nothing, nor for an
-- undeclared scope. Without RETURNING, for which SQLite makes a table each time.
-- Called by RegistryTransaction::register_instances, once for each.
-- ?1 kind, ?2 key, ?3 address, ?4 name, ?5 weight, ?6 metadata, ?7 ttl_seconds, ?8 now
INSERT INTO instance AS known
    (scope_id, address, name, weight, metadata, ttl_seconds, status, registered_at, updated_at)
SELECT scope.id, ?3, ?4, ?5, ?6, ?7,
       CASE ?1 WHEN 'service' THEN 'enabled' ELSE 'disabled' END,
       ?8, ?8
FROM scope
WHERE scope.kind = ?1 AND scope.key = ?2
ON CONFLICT (scope_id, address) DO UPDATE
SET name        = COALESCE(excluded.name, known.name),
    weight      = COALESCE(excluded.weight, known.weight),
    metadata    = COALESCE(excluded.metadata, known.metadata),
    ttl_seconds = COALESCE(excluded.ttl_seconds, known.ttl_seconds),
    status      = CASE known.status WHEN 'disabled' THEN excluded.status ELSE known.status END,
    updated_at  = excluded.updated_at,
    revision    = known.revision + 1
WHERE (known.name, known.weight, known.metadata, known.ttl_seconds, known.status) IS NOT (
    COALESCE(excluded.name, known.name), COALESCE(excluded.weight, known.weight),
    COALESCE(excluded.metadata, known.metadata), COALESCE(excluded.ttl_seconds, known.ttl_seconds),
    CASE known.status WHEN 'disabled' THEN excluded.status ELSE known.status END)
