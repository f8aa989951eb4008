-- What was said before: versions of windows that changed after they were final, and how far each
-- unit was final when. By the clock of the database, at one instant for each flush.

-- When a window first had a row: before, it counted nothing. For windows older than this migration,
-- the migration.
ALTER TABLE speed_stats_5m  ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE speed_stats_1h  ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE speed_stats_24h ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();

-- Rows of speed_stats_* as they stood from updated_at until valid_to. Only of windows that were final
-- at valid_to. No unique index: the guard on `rev` makes each version stand here at most once.
CREATE TABLE speed_history (
    -- 5, 60 or 1440.
    minutes   int4        NOT NULL,
    LIKE speed_stats_5m,
    valid_to  timestamptz NOT NULL
);
CREATE INDEX speed_history_window ON speed_history (device_key, minutes, bucket);
CREATE INDEX speed_history_age ON speed_history (valid_to);

-- device_status.final_to as it became at `at`.
CREATE TABLE finality_log (
    device_key  int4        NOT NULL,
    at          timestamptz NOT NULL,
    final_to    timestamptz NOT NULL
);
CREATE INDEX finality_log_device ON finality_log (device_key, at);
CREATE INDEX finality_log_age ON finality_log (at);
INSERT INTO finality_log (device_key, at, final_to)
SELECT device_key, now(), final_to FROM device_status WHERE final_to IS NOT NULL;

-- When the last of the passages was counted after all.
ALTER TABLE loss_ledger ADD COLUMN recovered_at timestamptz;
CREATE OR REPLACE VIEW v_loss AS
SELECT
    d.device,
    l.stream_key,
    l.first_seq,
    l.last_seq,
    l.last_seq - l.first_seq + 1 - l.recovered AS passages,
    l.scope,
    l.reason,
    l.event_min,
    l.event_max,
    l.booked_at,
    l.recovered_at
FROM loss_ledger l
JOIN device d USING (device_key);
COMMENT ON COLUMN v_loss.recovered_at IS 'When the last of them was counted after all; NULL while passages are lost.';

-- From when on every version that was final is kept. Rises before anything is deleted. One row.
CREATE TABLE history_kept (
    single_row  boolean     PRIMARY KEY DEFAULT true CHECK (single_row),
    kept_from   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO history_kept DEFAULT VALUES;

-- `aggregator reprocess` takes rejected passages by unit and event time.
CREATE INDEX rejected_passage_device ON rejected_passage (device_key, event_time);

-- v_speed_version_5m, _1h and _24h are one text for three lengths.
DO $views$
DECLARE
    length record;
    note   record;
    shown  text;
BEGIN
    FOR length IN SELECT * FROM (VALUES
        ('5m',  'interval ''5 minutes''', 5,    '5 minutes'),
        ('1h',  'interval ''1 hour''',    60,   '1 hour'),
        ('24h', 'interval ''24 hours''',  1440, '24 hours, from midnight UTC')
    ) AS lengths(suffix, span, minutes, words) LOOP
        shown := format($columns$
            s.n AS vehicles,
            s.sum_ckmh::float8 / (100.0::float8 * nullif(s.n_speed, 0)) AS mean_speed_kmh,
            s.p50_ckmh / 100.0::float8 AS v50_kmh,
            s.p85_ckmh / 100.0::float8 AS v85_kmh,
            s.violations,
            s.rev AS revision,
            s.revised,
            s.n_speed AS vehicles_with_speed,
            s.n_moving AS vehicles_moving,
            s.sum_ckmh AS speed_sum_ckmh,
            s.sumsq_ckmh2 AS speed_sumsq_ckmh2,
            s.pace_sum_ms_per_km,
            s.min_ckmh AS min_speed_ckmh,
            s.max_ckmh AS max_speed_ckmh,
            s.p50_ckmh AS v50_ckmh,
            s.p85_ckmh AS v85_ckmh,
            s.hist_lo AS hist_from_kmh,
            s.hist AS hist_counts,
            s.device_key
        $columns$);
        EXECUTE format($view$
            CREATE VIEW v_speed_version_%1$s AS
            SELECT d.device, s.bucket AS window_start, s.bucket + %2$s AS window_end,
                s.created_at AS first_written, s.updated_at AS valid_from,
                'infinity'::timestamptz AS valid_to, %4$s
            FROM speed_stats_%1$s s JOIN device d USING (device_key)
            UNION ALL
            SELECT d.device, s.bucket, s.bucket + %2$s,
                s.created_at, s.updated_at, s.valid_to, %4$s
            FROM speed_history s JOIN device d USING (device_key)
            WHERE s.minutes = %3$s
        $view$, length.suffix, length.span, length.minutes, shown);

        EXECUTE format('COMMENT ON VIEW v_speed_version_%s IS %L', length.suffix, format(
            'Windows of %s as they stand and as they stood: the version at a time T is the one with '
            'valid_from <= T and T < valid_to. Versions that ended are kept if the window was final '
            'by then, and since v_history.kept_from. A window that was first written by T and has no '
            'version at T was partial then.', length.words));
        FOR note IN SELECT * FROM (VALUES
            ('device', 'Name of the unit (kvfv_id).'),
            ('window_start', 'First instant of the window. Windows are aligned to UTC.'),
            ('window_end', 'First instant after the window.'),
            ('first_written', 'When the window first counted something.'),
            ('valid_from', 'When this version was written, by the clock of the database.'),
            ('valid_to', 'When the next one was; infinity for the one that stands.'),
            ('vehicles', 'Vehicles counted, with or without a speed.'),
            ('mean_speed_kmh', 'Time-mean speed in km/h.'),
            ('v50_kmh', 'Median speed in km/h.'),
            ('v85_kmh', 'V85 in km/h.'),
            ('violations', 'Vehicles that the unit reported as violations.'),
            ('revision', 'How many times the window had been written.'),
            ('revised', 'Whether the window had changed after it was final.'),
            ('vehicles_with_speed', 'Vehicles with a speed, the divisor of mean_speed_kmh.'),
            ('vehicles_moving', 'Vehicles of at least 1 km/h, those that have a pace.'),
            ('speed_sum_ckmh', 'Sum of the speeds in 0.01 km/h, exact.'),
            ('speed_sumsq_ckmh2', 'Sum of the squared speeds in (0.01 km/h)², exact.'),
            ('pace_sum_ms_per_km', 'Sum of the paces in milliseconds per km, exact.'),
            ('min_speed_ckmh', 'Lowest speed in 0.01 km/h, exact.'),
            ('max_speed_ckmh', 'Highest speed in 0.01 km/h, exact.'),
            ('v50_ckmh', 'Median speed in 0.01 km/h.'),
            ('v85_ckmh', 'V85 in 0.01 km/h.'),
            ('hist_from_kmh', 'Lower edge in km/h of the first bin in hist_counts.'),
            ('hist_counts', 'Vehicles in bins of 1 km/h from hist_from_kmh on; the bin of 400 km/h is open.'),
            ('device_key', 'Number of the unit in this database, shorter than its name for joins.')
        ) AS notes(column_name, words) LOOP
            EXECUTE format('COMMENT ON COLUMN v_speed_version_%s.%I IS %L',
                length.suffix, note.column_name, note.words);
        END LOOP;
    END LOOP;
END
$views$;

CREATE VIEW v_finality AS
SELECT d.device, l.at, l.final_to FROM finality_log l JOIN device d USING (device_key);

COMMENT ON VIEW v_finality IS 'How far each unit was final when: at a time T, the row with the greatest at <= T.';
COMMENT ON COLUMN v_finality.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_finality.at IS 'Since when, by the clock of the database.';
COMMENT ON COLUMN v_finality.final_to IS 'Windows that end by then were final.';

CREATE VIEW v_history AS SELECT kept_from FROM history_kept;

COMMENT ON VIEW v_history IS 'How far back answers can be repeated.';
COMMENT ON COLUMN v_history.kept_from IS 'Since then every version of a window that was final is kept.';

SELECT verst_roles_grant();
