-- Registers instances, each at most once. A known instance that is not held takes the given status,
-- unless it keeps its own. NULL keeps the present value while the lease is alive, unless that field is reset; without a lease it takes the
-- default, because another process may have the address now. Returns no row for a registration
-- without a difference, nor for an undeclared scope. Of each other one it returns only whether it is
-- new: the caller knows the columns of a new row, and reads those of a changed one.
-- Called by RegistryTransaction::register_instances.
-- $1 kinds, $2 keys, $3 addresses, $4 names, $5 weights, $6 metadata, $7 ttl_seconds,
-- $8 registered_by, $9 statuses, $10 now; $11 name, $12 weight, $13 metadata, $14 ttl_seconds: whether
-- to reset; $15 whether known instances keep their status
WITH target AS (
    SELECT scope.id, wanted.kind, wanted.key
    FROM (
        -- The same order on all replicas, so that two such statements cannot deadlock.
        SELECT DISTINCT given.kind COLLATE "C" AS kind, given.key COLLATE "C" AS key
        FROM unnest($1::text[], $2::text[]) AS given (kind, key)
        ORDER BY kind, key
    ) AS wanted
    CROSS JOIN LATERAL (
        -- Locked, so that no transaction deletes a scope while it gets instances.
        SELECT scope.id
        FROM scope
        WHERE scope.kind = wanted.kind AND scope.key = wanted.key
        FOR KEY SHARE
    ) AS scope
),
registered AS (
    INSERT INTO instance AS known
        (scope_id, address, name, weight, metadata, ttl_seconds, registered_by, status,
         registered_at, updated_at)
    SELECT target.id, given.address, given.name, given.weight, given.metadata, given.ttl_seconds,
           given.registered_by, given.status, $10::timestamptz, $10::timestamptz
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::jsonb[], $7::integer[],
                $8::text[], $9::text[])
        AS given (kind, key, address, name, weight, metadata, ttl_seconds, registered_by, status)
    JOIN target ON target.kind = given.kind AND target.key = given.key
    ORDER BY target.id, given.address COLLATE "C"
    ON CONFLICT (scope_id, address) DO UPDATE
    SET name          = COALESCE(excluded.name, CASE WHEN known.online AND NOT $11 THEN known.name END),
        weight        = COALESCE(excluded.weight, CASE WHEN known.online AND NOT $12 THEN known.weight END),
        metadata      = COALESCE(excluded.metadata, CASE WHEN known.online AND NOT $13 THEN known.metadata END),
        ttl_seconds   = COALESCE(excluded.ttl_seconds, CASE WHEN known.online AND NOT $14 THEN known.ttl_seconds END),
        registered_by = excluded.registered_by,
        status        = CASE WHEN known.status = 'held' OR $15 THEN known.status ELSE excluded.status END,
        updated_at    = excluded.updated_at,
        revision      = known.revision + 1
    WHERE (known.name, known.weight, known.metadata, known.ttl_seconds, known.status) IS DISTINCT FROM (
        COALESCE(excluded.name, CASE WHEN known.online AND NOT $11 THEN known.name END),
        COALESCE(excluded.weight, CASE WHEN known.online AND NOT $12 THEN known.weight END),
        COALESCE(excluded.metadata, CASE WHEN known.online AND NOT $13 THEN known.metadata END),
        COALESCE(excluded.ttl_seconds, CASE WHEN known.online AND NOT $14 THEN known.ttl_seconds END),
        CASE WHEN known.status = 'held' OR $15 THEN known.status ELSE excluded.status END)
    RETURNING id, scope_id, address, revision
)
SELECT instance.id, target.kind, target.key, instance.address, instance.revision = 1 AS created
FROM registered AS instance
JOIN target ON target.id = instance.scope_id
