-- Kinds, keys and addresses are ASCII and compared byte by byte, as the daemon does it, and
-- not by the rules of the database's language, which costs a registration a fifth of its time.

ALTER TABLE scope
    ALTER COLUMN kind TYPE text COLLATE "C",
    ALTER COLUMN key TYPE text COLLATE "C";

ALTER TABLE instance
    ALTER COLUMN address TYPE text COLLATE "C";
