-- Registers an instance of a declared scope. A known instance that is not held takes the given
-- status, unless it keeps its own. NULL keeps the present value while the lease is alive, unless that field is reset; without a lease it takes the
-- default, because another process may have the address now. Changes no row for a registration
-- without a difference. Without RETURNING, for which SQLite creates a table each time.
-- Called by RegistryTransaction::register_instances, once per instance.
-- ?1 scope_id, ?2 status, ?3 address, ?4 name, ?5 weight, ?6 metadata, ?7 ttl_seconds,
-- ?8 registered_by, ?9 now; ?10 name, ?11 weight, ?12 metadata, ?13 ttl_seconds: whether to reset;
-- ?14 whether a known instance keeps its status
INSERT INTO instance AS known
    (scope_id, address, name, weight, metadata, ttl_seconds, registered_by, status, registered_at, updated_at)
VALUES (?1, ?3, ?4, ?5, ?6, ?7, ?8, ?2, ?9, ?9)
ON CONFLICT (scope_id, address) DO UPDATE
SET name          = COALESCE(excluded.name, CASE WHEN known.online AND NOT ?10 THEN known.name END),
    weight        = COALESCE(excluded.weight, CASE WHEN known.online AND NOT ?11 THEN known.weight END),
    metadata      = COALESCE(excluded.metadata, CASE WHEN known.online AND NOT ?12 THEN known.metadata END),
    ttl_seconds   = COALESCE(excluded.ttl_seconds, CASE WHEN known.online AND NOT ?13 THEN known.ttl_seconds END),
    registered_by = excluded.registered_by,
    status        = CASE WHEN known.status = 'held' OR ?14 THEN known.status ELSE excluded.status END,
    updated_at    = excluded.updated_at,
    revision      = known.revision + 1
WHERE (known.name, known.weight, known.metadata, known.ttl_seconds, known.status) IS NOT (
    COALESCE(excluded.name, CASE WHEN known.online AND NOT ?10 THEN known.name END),
    COALESCE(excluded.weight, CASE WHEN known.online AND NOT ?11 THEN known.weight END),
    COALESCE(excluded.metadata, CASE WHEN known.online AND NOT ?12 THEN known.metadata END),
    COALESCE(excluded.ttl_seconds, CASE WHEN known.online AND NOT ?13 THEN known.ttl_seconds END),
    CASE WHEN known.status = 'held' OR ?14 THEN known.status ELSE excluded.status END)
