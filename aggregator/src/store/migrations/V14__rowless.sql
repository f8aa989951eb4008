-- Raw rows that a summary announced and that the unit no longer has: lost, though nobody declared it.
-- What is stored is none of them, but an aggregator that does not know the column and goes on until it
-- is replaced may store some.

ALTER TABLE stream_cursor
    ADD COLUMN rowless int8multirange NOT NULL DEFAULT '{}',
    ADD CHECK (rowless <@ counted);

-- They may come after all, too late for a window, and find no room in the side table: then they are
-- lost once more, for another reason. Nor may an entry be refused because an aggregator that does not
-- know the column books the same once more.
ALTER TABLE loss_ledger DROP CONSTRAINT loss_ledger_pkey;
CREATE INDEX loss_ledger_stream ON loss_ledger (stream_key, first_seq);

-- What is declared or rejected is among the stored by the cursor; what is presumed is not.
CREATE OR REPLACE VIEW v_ledger AS
SELECT
    d.device,
    s.stream_key,
    replace(s.stream::text, '-', '') AS stream,
    s.first_seen,
    s.last_word_at,
    s.accepted,
    s.counted - coalesce(l.rejected, 0) AS counted,
    s.stored - (coalesce(l.raw_only, 0) - s.rowless) - coalesce(l.rejected, 0) AS stored,
    s.held,
    s.lost + coalesce(l.rejected, 0) AS lost,
    s.accepted - s.counted - s.held - s.lost AS unexplained,
    coalesce(l.quota, 0) AS lost_quota,
    coalesce(l.corrupt, 0) AS lost_corrupt,
    coalesce(l.refused, 0) AS lost_refused,
    coalesce(l.operator, 0) AS lost_operator,
    coalesce(l.vanished, 0) AS lost_vanished,
    coalesce(l.centre_lost, 0) AS lost_centre_lost,
    coalesce(l.raw_only, 0) AS raw_only,
    s.settled,
    d.shard,
    coalesce(l.rejected, 0) AS lost_rejected
FROM (
    SELECT
        c.device_key, c.stream_key, c.stream, c.first_seen, c.settled,
        greatest(c.updated_at, i.heartbeat_at) AS last_word_at,
        c.accepted_to AS accepted,
        verst_numbers(c.counted) AS counted,
        verst_numbers(c.stored) AS stored,
        verst_numbers(c.rowless - c.stored) AS rowless,
        verst_numbers(c.lost) AS lost,
        -- What the unit said that it held, and what it has accepted since then. A word that is older
        -- than the limit explains nothing.
        CASE
            WHEN c.settled THEN 0
            WHEN greatest(c.updated_at, i.heartbeat_at)
                < now() - (SELECT unexplained_after FROM ledger_limit) THEN 0
            ELSE verst_numbers((int8multirange(int8range(1, c.accepted_to, '[]')) - c.counted - c.lost)
                * (coalesce(i.held, '{}') + int8multirange(
                    int8range(least(coalesce(i.accepted_to, 0), c.accepted_to) + 1, NULL))))
        END AS held
    FROM stream_cursor c
    LEFT JOIN LATERAL (
        SELECT t.heartbeat_at, n.accepted_to, n.held
        FROM device_status t,
            unnest(t.inventory_stream, t.inventory_accepted_to, t.inventory_held)
                AS n (stream, accepted_to, held)
        WHERE t.device_key = c.device_key AND n.stream = c.stream
    ) i ON NOT c.settled
) s
JOIN device d USING (device_key)
LEFT JOIN LATERAL (
    SELECT
        sum(left_over) FILTER (WHERE scope = 'raw_only')::int8 AS raw_only,
        sum(left_over) FILTER (WHERE scope = 'rejected')::int8 AS rejected,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'quota')::int8 AS quota,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'corrupt')::int8 AS corrupt,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'refused')::int8 AS refused,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'operator')::int8 AS operator,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'vanished')::int8 AS vanished,
        sum(left_over) FILTER (WHERE scope = 'all' AND reason = 'centre_lost')::int8 AS centre_lost
    FROM (
        SELECT scope, reason, last_seq - first_seq + 1 - recovered AS left_over
        FROM loss_ledger WHERE stream_key = s.stream_key
    ) AS losses
) l ON true;

COMMENT ON COLUMN v_ledger.raw_only IS 'Passages that are in the windows and whose raw rows are not expected any more. What of counted is neither stored nor among these, the unit still has.';
COMMENT ON COLUMN v_loss.recovered_at IS 'When the last of them came after all; NULL while passages are lost.';
