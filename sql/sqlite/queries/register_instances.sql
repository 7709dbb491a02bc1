-- Registers an instance of a declared scope. A new gateway is disabled, a new service instance
-- enabled; a known service instance that is disabled is enabled again. NULL keeps the present
-- value. Changes no row for a registration without a difference. Without RETURNING, for which
-- SQLite creates a table each time.
-- Called by RegistryTransaction::register_instances, once per instance.
-- ?1 scope_id, ?2 kind, ?3 address, ?4 name, ?5 weight, ?6 metadata, ?7 ttl_seconds, ?8 now
INSERT INTO instance AS known
    (scope_id, address, name, weight, metadata, ttl_seconds, status, registered_at, updated_at)
VALUES (?1, ?3, ?4, ?5, ?6, ?7, CASE ?2 WHEN 'service' THEN 'enabled' ELSE 'disabled' END, ?8, ?8)
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
