-- Raw passages on plain PostgreSQL: one partition for each day (UTC) that has any.
-- No unique index: the cursor makes each (stream_key, seq) stand here at most once.
CREATE TABLE passage (
    event_time            timestamptz NOT NULL,
    seq                   int8        NOT NULL,
    device_key            int4        NOT NULL,
    stream_key            int4        NOT NULL,
    speed_ckmh            int4,
    lane                  int2,
    -- 0 approaching, 1 receding, 2 N, 3 NE … 9 NW.
    direction             int2,
    vehicle_class         int2,
    length_cm             int2,
    speed_limit_kmh       int2,
    confidence_permille   int2,
    violation             boolean     NOT NULL,
    plate                 text,
    plate_hash            bytea,
    extra                 jsonb
) PARTITION BY RANGE (event_time);
CREATE INDEX passage_time ON passage USING brin (event_time);

-- Makes the partitions of these days. Attaching, unlike PARTITION OF, lets readers go on. Who comes
-- while another makes them waits until that is over: before, a COPY might not see them yet.
CREATE FUNCTION raw_days_prepare(days date[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    d date;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(x'5645525354000003'::bit(64)::int8);
    -- Not to_regclass, which remembers what it has not found.
    FOR d IN
        SELECT DISTINCT wanted FROM unnest(days) AS wanted
        WHERE NOT EXISTS (
            SELECT FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
            WHERE c.relname = 'passage_' || to_char(wanted, 'YYYYMMDD')
              AND i.inhparent = 'passage'::regclass)
        ORDER BY wanted
    LOOP
        name := 'passage_' || to_char(d, 'YYYYMMDD');
        EXECUTE format('CREATE TABLE %I (LIKE passage INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
        EXECUTE format(
            'ALTER TABLE passage ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            name, d::timestamp AT TIME ZONE 'UTC', (d + 1)::timestamp AT TIME ZONE 'UTC');
    END LOOP;
END $$;

-- Drops the partitions of all days before this one; says how many.
CREATE FUNCTION raw_days_drop(before date) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped int4 := 0;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'passage'::regclass
          AND to_date(substr(c.relname, 9), 'YYYYMMDD') < before
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
