-- Declares a service that is not known yet, and then returns it.
-- Called by RegistryTransaction::register_instances, before each instance.
-- ?1 key, ?2 now
INSERT INTO scope (kind, key, created_at)
VALUES ('service', ?1, ?2)
ON CONFLICT (kind, key) DO NOTHING
RETURNING id, kind, key, name, created_at, revision
