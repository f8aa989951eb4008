-- What a stream has settled need not be known for ever: windows that begin before the floor take
-- nothing any more, so what a forgotten stream sends again is refused, not counted twice.

-- Rises, and never falls. One row.
CREATE TABLE cursor_floor (
    single_row boolean     PRIMARY KEY DEFAULT true CHECK (single_row),
    floor      timestamptz NOT NULL DEFAULT '1970-01-01Z'
);
INSERT INTO cursor_floor DEFAULT VALUES;

SELECT verst_roles_grant();
