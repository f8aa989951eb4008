-- The loss ledger adds up: of each stream, accepted = counted + lost + held.

-- Losses that nobody declared: presumed by the centre, and not called settled in receipts.
ALTER TABLE stream_cursor
    ADD COLUMN presumed int8multirange NOT NULL DEFAULT '{}',
    ADD CHECK (presumed <@ lost);

-- What the unit said last of its streams, one element for each: the numbers that it had accepted, and
-- those of which it had anything left.
ALTER TABLE device_status
    ADD COLUMN inventory_stream      uuid[]           NOT NULL DEFAULT '{}',
    ADD COLUMN inventory_accepted_to int8[]           NOT NULL DEFAULT '{}',
    ADD COLUMN inventory_held        int8multirange[] NOT NULL DEFAULT '{}';

-- [store] unexplained_after_minutes, as the aggregators were last started with. One row.
CREATE TABLE ledger_limit (
    single_row        boolean  PRIMARY KEY DEFAULT true CHECK (single_row),
    unexplained_after interval NOT NULL DEFAULT '24 hours'
);
INSERT INTO ledger_limit DEFAULT VALUES;

CREATE FUNCTION verst_numbers(numbers int8multirange) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT
BEGIN ATOMIC
    SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 FROM unnest(numbers) AS r;
END;
COMMENT ON FUNCTION verst_numbers(int8multirange) IS 'How many numbers a set holds.';

CREATE VIEW v_ledger AS
SELECT
    d.device,
    s.stream_key,
    replace(s.stream::text, '-', '') AS stream,
    s.first_seen,
    s.last_word_at,
    s.accepted,
    s.counted,
    s.stored - coalesce(l.raw_only, 0) AS stored,
    s.held,
    s.lost,
    s.accepted - s.counted - s.held - s.lost AS unexplained,
    coalesce(l.quota, 0) AS lost_quota,
    coalesce(l.corrupt, 0) AS lost_corrupt,
    coalesce(l.refused, 0) AS lost_refused,
    coalesce(l.operator, 0) AS lost_operator,
    coalesce(l.vanished, 0) AS lost_vanished,
    coalesce(l.centre_lost, 0) AS lost_centre_lost,
    coalesce(l.raw_only, 0) AS raw_only,
    s.settled,
    d.shard
FROM (
    SELECT
        c.device_key, c.stream_key, c.stream, c.first_seen, c.settled,
        greatest(c.updated_at, i.heartbeat_at) AS last_word_at,
        c.accepted_to AS accepted,
        verst_numbers(c.counted) AS counted,
        verst_numbers(c.stored) AS stored,
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

COMMENT ON VIEW v_ledger IS 'The books of each stream, which is what one run of an agent accepted: accepted = counted + held + lost + unexplained. Single losses with their time stand in v_loss.';
COMMENT ON COLUMN v_ledger.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_ledger.stream_key IS 'Number of the stream in this database, as in v_passage and v_loss.';
COMMENT ON COLUMN v_ledger.stream IS 'Its name, 32 hexadecimal digits, as the unit''s own status shows it.';
COMMENT ON COLUMN v_ledger.first_seen IS 'When the centre first heard of it.';
COMMENT ON COLUMN v_ledger.last_word_at IS 'When something was last heard of it.';
COMMENT ON COLUMN v_ledger.accepted IS 'Passages that the unit has accepted, as far as the centre knows.';
COMMENT ON COLUMN v_ledger.counted IS 'Passages in the windows, or in the side table of what no window takes.';
COMMENT ON COLUMN v_ledger.stored IS 'Passages whose raw row was written; where raw rows are off, as counted.';
COMMENT ON COLUMN v_ledger.held IS 'Passages that wait at the unit, by its own word.';
COMMENT ON COLUMN v_ledger.lost IS 'Passages known to be lost: in no window and no table. The sum of the lost_ columns.';
COMMENT ON COLUMN v_ledger.unexplained IS 'Passages that are neither counted nor lost, and of which the unit has not said that it holds them within the limit ([store] unexplained_after_minutes).';
COMMENT ON COLUMN v_ledger.lost_quota IS 'Lost because the unit''s buffer was full.';
COMMENT ON COLUMN v_ledger.lost_corrupt IS 'Lost because the unit''s disk returned something else than was written.';
COMMENT ON COLUMN v_ledger.lost_refused IS 'Refused by the centre for ever; the unit keeps them aside for another build of it.';
COMMENT ON COLUMN v_ledger.lost_operator IS 'Taken out of the buffer by an operator.';
COMMENT ON COLUMN v_ledger.lost_vanished IS 'The unit has nothing left of them and nobody said why: its store was replaced, lost or put back in time.';
COMMENT ON COLUMN v_ledger.lost_centre_lost IS 'The centre had confirmed them, its database was put back in time, and the unit had let go of them.';
COMMENT ON COLUMN v_ledger.raw_only IS 'Passages that are in the windows and whose raw rows will never come.';
COMMENT ON COLUMN v_ledger.settled IS 'Whether everything that it is known to have accepted is counted or lost.';
COMMENT ON COLUMN v_ledger.shard IS 'Group of units, 0 to 63, owned together by one aggregator.';

SELECT verst_roles_grant();
