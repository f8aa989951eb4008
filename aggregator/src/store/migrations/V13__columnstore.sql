-- Days whose passages are all beyond the horizon move to TimescaleDB's columnstore, where they take a
-- fraction of the space. No flush writes into them any more; rows that `aggregator reprocess` adds stand
-- beside what was moved. Windows never move: late passages update them.

-- Moves the oldest day before this one that has not moved yet; says how many it moved, 1 or 0. There is
-- no columnstore for native partitions, nor under the Apache licence.
CREATE FUNCTION raw_day_pack(before date) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    chunk regclass;
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = 'passage'::regclass AND relkind = 'p')
        OR current_setting('timescaledb.license') <> 'timescale' THEN
        RETURN 0;
    END IF;
    SELECT format('%I.%I', c.chunk_schema, c.chunk_name)::regclass INTO chunk
    FROM timescaledb_information.chunks c
    WHERE format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = 'passage'::regclass
      AND NOT c.is_compressed
      AND c.range_end <= before::timestamp AT TIME ZONE 'UTC'
    ORDER BY c.range_end LIMIT 1;
    IF chunk IS NULL THEN
        RETURN 0;
    END IF;
    IF NOT (
        SELECT h.compression_enabled FROM timescaledb_information.hypertables h
        WHERE format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass = 'passage'::regclass
    ) THEN
        ALTER TABLE passage SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'device_key',
            timescaledb.compress_orderby = 'event_time');
    END IF;
    PERFORM compress_chunk(chunk);
    RETURN 1;
END $$;

-- Who may drop days may move them as well, with the rights of the owner.
DO $$
DECLARE
    path text := (SELECT string_agg(quote_ident(name), ', ') FROM unnest(current_schemas(false)) AS name);
    before text := pg_get_functiondef('verst_roles_grant()'::regprocedure);
    after text := replace(before, 'raw_days_drop(date) TO', 'raw_days_drop(date), raw_day_pack(date) TO');
BEGIN
    IF after = before THEN
        RAISE EXCEPTION 'verst_roles_grant grants no raw_days_drop';
    END IF;
    EXECUTE after;
    EXECUTE format('ALTER FUNCTION raw_day_pack(date) SECURITY DEFINER SET search_path = %s, pg_temp', path);
END $$;
REVOKE EXECUTE ON FUNCTION raw_day_pack(date) FROM PUBLIC;

SELECT verst_roles_grant();
