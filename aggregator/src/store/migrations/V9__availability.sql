-- Aggregators that share the shards. A lease is a row of shard_lease whose owner lives: one row of an
-- aggregator keeps all of its leases.

CREATE TABLE aggregator (
    -- As in shard_lease; the last word is its own among all that were ever started.
    owner          text        PRIMARY KEY,
    -- Since when it takes part; the older of two with one name does.
    since          timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at     timestamptz NOT NULL,
    -- So long after renewed_at its leases end.
    expires_after  interval    NOT NULL,
    -- So long after renewed_at they end if its session is gone as well.
    suspect_after  interval    NOT NULL,
    -- Brokers that it reaches: shards go to those that reach most.
    brokers        int2        NOT NULL
) WITH (fillfactor = 50);

-- Whether an aggregator lives, by the clock of the database. While the server has just started nobody
-- is judged: all sessions are gone, and nobody could renew.
CREATE FUNCTION aggregator_lives(who text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM aggregator a WHERE a.owner = who AND (
            clock_timestamp() < pg_postmaster_start_time() + a.expires_after
            OR clock_timestamp() < a.renewed_at + a.suspect_after
            OR clock_timestamp() < a.renewed_at + a.expires_after AND EXISTS (
                SELECT FROM pg_stat_activity s
                WHERE s.application_name = 'verst-lease ' || split_part(who, ' ', -1))))
$$;

ALTER TABLE shard_lease DROP COLUMN expires_at;
