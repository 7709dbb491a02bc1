-- Lists the actions of operators that meet all conditions, the latest first. A condition that is
-- NULL is met.
-- Called by RegistryReader::list_actions.
-- ?1 an id: only earlier ones, ?2 kind, ?3 key, ?4 address, ?5 token, ?6 action, ?7 at or after,
-- ?8 before; ?9 kind and ?10 key, or the beginning of keys if ?11: only of these scopes; ?12 limit
SELECT id, at, token, peer, action, kind, key, address, before, after, reason, count
FROM action
WHERE id < ?1
  AND (?2 IS NULL OR kind = ?2)
  AND (?3 IS NULL OR key = ?3)
  AND (?4 IS NULL OR address = ?4)
  AND (?5 IS NULL OR token = ?5)
  AND (?6 IS NULL OR action = ?6)
  AND (?7 IS NULL OR at >= ?7)
  AND (?8 IS NULL OR at < ?8)
  AND (?9 IS NULL OR (kind = ?9 AND (key = ?10 OR (?11 AND substr(key, 1, length(?10)) = ?10))))
ORDER BY id DESC
LIMIT ?12
