-- Deletes the oldest actions of operators that were recorded before a time.
-- Called by RegistryTransaction::purge_actions.
-- $1 the time, $2 the most rows
DELETE FROM action
WHERE id IN (SELECT id FROM action WHERE at < $1 ORDER BY id LIMIT $2)
RETURNING id
