-- Who may do what. Roles belong to the whole server, not to this database: they may exist already,
-- or this account may not create them. Neither stops the migration; a warning says what to do.
--
--   verst_reader  sees the views (V3), nothing else: no table, no plate.
--   verst_writer  what `aggregator run` needs with `migrate = false`: the tables, no change of schema.
--
-- Neither can log in. A login role is made by verst_login_create and gets its time limits there,
-- because settings of a group are not inherited by its members:
--
--   SELECT verst_login_create('grafana', 'verst_reader');
--   \password grafana
--
-- A reader that holds a snapshot for long keeps dead versions of windows alive and makes every
-- flush slower: hence the limits.

CREATE FUNCTION verst_roles_grant() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    schema_name text := current_schema();
    role_name   text;
    relation    record;
    missing     text[] := '{}';
BEGIN
    FOREACH role_name IN ARRAY ARRAY['verst_reader', 'verst_writer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN missing := missing || role_name;
            END;
        END IF;
    END LOOP;

    IF NOT 'verst_reader' = ANY (missing) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO verst_reader', schema_name);
        FOR relation IN
            SELECT viewname AS name FROM pg_views
            WHERE schemaname = schema_name AND viewname LIKE 'v\_%'
        LOOP
            EXECUTE format('GRANT SELECT ON %I.%I TO verst_reader', schema_name, relation.name);
        END LOOP;
    END IF;

    IF NOT 'verst_writer' = ANY (missing) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO verst_writer', schema_name);
        EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO verst_writer', schema_name);
        FOR relation IN
            SELECT c.relname AS name, c.relname = 'refinery_schema_history' OR c.relkind = 'v'
                AS read_only
            FROM pg_class c
            WHERE c.relnamespace = schema_name::regnamespace AND NOT c.relispartition
              AND c.relkind IN ('r', 'p', 'v')
              AND pg_has_role(c.relowner, 'USAGE')
        LOOP
            EXECUTE format('GRANT %s ON %I.%I TO verst_writer',
                CASE WHEN relation.read_only THEN 'SELECT'
                     ELSE 'SELECT, INSERT, UPDATE, DELETE' END,
                schema_name, relation.name);
        END LOOP;
        GRANT EXECUTE ON FUNCTION raw_days_prepare(date[]), raw_days_drop(date) TO verst_writer;
    END IF;

    IF missing = '{}' THEN
        RETURN 'granted';
    END IF;
    RAISE WARNING 'roles % do not exist and % may not create them', missing, current_user
        USING HINT = 'as a superuser: CREATE ROLE ' || array_to_string(missing, ' NOLOGIN; CREATE ROLE ')
            || ' NOLOGIN; then as the owner of the tables: SELECT verst_roles_grant();';
    RETURN 'missing: ' || array_to_string(missing, ', ');
END
$$;
COMMENT ON FUNCTION verst_roles_grant() IS 'Creates verst_reader and verst_writer where that is allowed and grants them their rights. Runs again without harm; returns granted, or which roles are missing.';

CREATE FUNCTION verst_login_create(
    login                text,
    member_of            text     DEFAULT 'verst_reader',
    statement_limit      interval DEFAULT '60 s',
    idle_in_transaction_limit interval DEFAULT '10 s',
    connections_max      int4     DEFAULT 10
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ms constant text := '%s ms';
BEGIN
    IF member_of NOT IN ('verst_reader', 'verst_writer') THEN
        RAISE EXCEPTION 'a login is a member of verst_reader or verst_writer, not of %', member_of;
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN CONNECTION LIMIT %s IN ROLE %I',
        login, connections_max, member_of);
    EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', login,
        format(ms, (extract(epoch FROM idle_in_transaction_limit) * 1000)::int8));
    IF member_of = 'verst_reader' THEN
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', login,
            format(ms, (extract(epoch FROM statement_limit) * 1000)::int8));
        EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', login);
    END IF;
END
$$;
COMMENT ON FUNCTION verst_login_create(text, text, interval, interval, int4) IS 'Creates a login role in verst_reader or verst_writer with its time limits (statement_limit is for readers) and connection limit. Give it a password with \password. Needs the right to create roles.';

REVOKE EXECUTE ON FUNCTION verst_roles_grant() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION verst_login_create(text, text, interval, interval, int4) FROM PUBLIC;

-- Days are made and dropped with the rights of the owner, so that a writer need not own the table.
DO $$
DECLARE
    path text := (SELECT string_agg(quote_ident(name), ', ') FROM unnest(current_schemas(false)) AS name);
BEGIN
    EXECUTE format('ALTER FUNCTION raw_days_prepare(date[]) SECURITY DEFINER SET search_path = %s, pg_temp', path);
    EXECUTE format('ALTER FUNCTION raw_days_drop(date) SECURITY DEFINER SET search_path = %s, pg_temp', path);
END
$$;
REVOKE EXECUTE ON FUNCTION raw_days_prepare(date[]), raw_days_drop(date) FROM PUBLIC;

SELECT verst_roles_grant();
