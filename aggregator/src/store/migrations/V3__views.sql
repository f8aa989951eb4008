-- What people and programs read: views over the tables, with units in names and comments.
--
-- Speeds are km/h as double precision, counts are vehicles, times are timestamptz. A value that
-- cannot be had is NULL, never 0. A window in which nothing was counted has no row.
-- Views run with the rights of their owner: readers need no right on the tables (V4).

-- v_speed_5m, v_speed_1h and v_speed_24h are one text for three lengths.
DO $views$
DECLARE
    length record;
    note   record;
BEGIN
    FOR length IN SELECT * FROM (VALUES
        ('5m',  'interval ''5 minutes''', '12.0',       '5 minutes'),
        ('1h',  'interval ''1 hour''',    '1.0',        '1 hour'),
        ('24h', 'interval ''24 hours''',  '(1.0 / 24)', '24 hours, from midnight UTC')
    ) AS lengths(suffix, span, per_hour, words) LOOP
        EXECUTE format($view$
            CREATE VIEW v_speed_%1$s AS
            SELECT
                d.device,
                s.bucket AS window_start,
                s.bucket + %2$s AS window_end,
                s.n AS vehicles,
                (s.n * %3$s)::float8 AS flow_veh_h,
                s.sum_ckmh::float8 / (100.0::float8 * nullif(s.n_speed, 0)) AS mean_speed_kmh,
                s.n_moving * 3600000.0::float8 / nullif(s.pace_sum_ms_per_km, 0)
                    AS space_mean_speed_kmh,
                CASE WHEN s.n_speed > 1 THEN
                    sqrt((s.n_speed * s.sumsq_ckmh2::numeric - s.sum_ckmh::numeric * s.sum_ckmh)
                        / (s.n_speed * (s.n_speed - 1)::numeric))::float8 / 100
                END AS std_dev_kmh,
                s.min_ckmh / 100.0::float8 AS min_speed_kmh,
                s.max_ckmh / 100.0::float8 AS max_speed_kmh,
                s.p15_ckmh / 100.0::float8 AS v15_kmh,
                s.p50_ckmh / 100.0::float8 AS v50_kmh,
                s.p85_ckmh / 100.0::float8 AS v85_kmh,
                s.p95_ckmh / 100.0::float8 AS v95_kmh,
                s.violations,
                s.class_n AS vehicles_by_class,
                s.lane_n AS vehicles_by_lane,
                ARRAY(
                    SELECT lane.sum / (100.0::float8 * nullif(lane.n, 0))
                    FROM unnest(s.lane_sum_ckmh, s.lane_n_speed) WITH ORDINALITY
                        AS lane(sum, n, place)
                    ORDER BY lane.place
                ) AS mean_speed_by_lane_kmh,
                CASE
                    WHEN s.revised THEN 'revised'
                    WHEN s.bucket + %2$s <= t.final_to THEN 'final'
                    ELSE 'partial'
                END AS state,
                NOT EXISTS (
                    SELECT FROM loss_ledger l
                    WHERE l.device_key = s.device_key AND l.scope = 'all'
                      AND l.recovered < l.last_seq - l.first_seq + 1
                      AND (l.event_max >= s.bucket OR l.event_max IS NULL)
                      AND (l.event_min < s.bucket + %2$s OR l.event_min IS NULL)
                ) AS complete,
                s.rev AS revision,
                s.updated_at,
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
                s.revised,
                s.device_key
            FROM speed_stats_%1$s s
            JOIN device d USING (device_key)
            LEFT JOIN device_status t USING (device_key)
        $view$, length.suffix, length.span, length.per_hour);

        EXECUTE format('COMMENT ON VIEW v_speed_%s IS %L', length.suffix, format(
            'Speed statistics of each unit in windows of %s, by event time. Windows merge exactly: '
            'sum the counts and sums of any of them, then divide.', length.words));
        FOR note IN SELECT * FROM (VALUES
            ('device', 'Name of the unit (kvfv_id).'),
            ('window_start', 'First instant of the window. Windows are aligned to UTC.'),
            ('window_end', 'First instant after the window.'),
            ('vehicles', 'Vehicles counted, with or without a speed.'),
            ('flow_veh_h', 'Flow in vehicles per hour: vehicles divided by the length of the window.'),
            ('mean_speed_kmh', 'Time-mean speed in km/h: arithmetic mean over the vehicles with a speed.'),
            ('space_mean_speed_kmh', 'Space-mean speed in km/h: harmonic mean over the vehicles of at least 1 km/h.'),
            ('std_dev_kmh', 'Sample standard deviation of the speeds in km/h; NULL below two speeds.'),
            ('min_speed_kmh', 'Lowest speed in km/h.'),
            ('max_speed_kmh', 'Highest speed in km/h.'),
            ('v15_kmh', 'Speed in km/h that 15 % of the vehicles do not exceed, from a histogram of 1 km/h bins.'),
            ('v50_kmh', 'Median speed in km/h, from a histogram of 1 km/h bins.'),
            ('v85_kmh', 'V85 in km/h: the speed that 85 % of the vehicles do not exceed, from a histogram of 1 km/h bins.'),
            ('v95_kmh', 'Speed in km/h that 95 % of the vehicles do not exceed, from a histogram of 1 km/h bins.'),
            ('violations', 'Vehicles that the unit reported as violations.'),
            ('vehicles_by_class', 'Vehicles by class: element 1 is class 0. Ends with the last class that has any; vehicles without a class are in no element.'),
            ('vehicles_by_lane', 'Vehicles by lane: element 1 is lane 0. Ends with the last lane that has any; vehicles without a lane are in no element.'),
            ('mean_speed_by_lane_kmh', 'Time-mean speed by lane in km/h: element 1 is lane 0; NULL for a lane without speeds.'),
            ('state', 'partial: passages may still be on their way; final: the unit has said that all of them are counted; revised: changed after it was final.'),
            ('complete', 'False when passages that may belong to the window are known to be lost (v_loss).'),
            ('revision', 'How many times the window was written.'),
            ('updated_at', 'When it was written last, by the clock of the database.'),
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
            ('revised', 'Whether state is revised, without asking how far the unit is final.'),
            ('device_key', 'Number of the unit in this database, shorter than its name for joins.')
        ) AS notes(column_name, words) LOOP
            EXECUTE format('COMMENT ON COLUMN v_speed_%s.%I IS %L',
                length.suffix, note.column_name, note.words);
        END LOOP;
    END LOOP;
END
$views$;

CREATE VIEW v_device AS
SELECT
    d.device,
    d.shard,
    d.first_seen,
    (SELECT max(s.bucket) FROM speed_stats_5m s WHERE s.device_key = d.device_key)
        AS last_window_start,
    t.final_to,
    t.frontier,
    t.heartbeat_at,
    t.backlog_passages,
    t.backlog_bytes,
    t.backlog_oldest,
    t.camera_last_post,
    t.clock_offset_ms,
    t.agent_version,
    t.disk_used_bytes,
    t.disk_quota_bytes,
    t.disk_free_bytes,
    t.cloned_at,
    t.past_to,
    coalesce(t.past_changes, 0) AS past_changes
FROM device d
LEFT JOIN device_status t USING (device_key);

COMMENT ON VIEW v_device IS 'The units that the centre knows, and what each said of itself last.';
COMMENT ON COLUMN v_device.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_device.shard IS 'Group of units, 0 to 63, owned together by one aggregator.';
COMMENT ON COLUMN v_device.first_seen IS 'When the centre first heard of it.';
COMMENT ON COLUMN v_device.last_window_start IS 'Start of the newest 5-minute window in which it counted a vehicle.';
COMMENT ON COLUMN v_device.final_to IS 'Windows that end by then are final.';
COMMENT ON COLUMN v_device.frontier IS 'The unit''s own statement: everything of it before this event time has been counted.';
COMMENT ON COLUMN v_device.heartbeat_at IS 'When its last heartbeat arrived, by the clock of the centre.';
COMMENT ON COLUMN v_device.backlog_passages IS 'Passages that waited at the unit for a receipt at its last heartbeat.';
COMMENT ON COLUMN v_device.backlog_bytes IS 'Their size in logical bytes.';
COMMENT ON COLUMN v_device.backlog_oldest IS 'The oldest event time among them.';
COMMENT ON COLUMN v_device.camera_last_post IS 'When the camera software last delivered to the unit, by the unit''s clock.';
COMMENT ON COLUMN v_device.clock_offset_ms IS 'The unit''s clock less true time in milliseconds, where the unit knows.';
COMMENT ON COLUMN v_device.agent_version IS 'Version of its agent.';
COMMENT ON COLUMN v_device.disk_used_bytes IS 'Bytes that its buffer takes on disk.';
COMMENT ON COLUMN v_device.disk_quota_bytes IS 'Logical bytes that its buffer may hold.';
COMMENT ON COLUMN v_device.disk_free_bytes IS 'Bytes free on the disk of its buffer.';
COMMENT ON COLUMN v_device.cloned_at IS 'When two units last spoke under this name by turns; nothing turns final for a day.';
COMMENT ON COLUMN v_device.past_to IS 'Windows that start before it change only together with past_changes.';
COMMENT ON COLUMN v_device.past_changes IS 'Rises whenever a window that starts before past_to changes: a copy of those is true for as long as it stands.';

-- Neither plates nor `extra`, which may hold anything the camera software knows of a person.
CREATE VIEW v_passage AS
SELECT
    d.device,
    p.event_time,
    p.speed_ckmh / 100.0::float8 AS speed_kmh,
    p.lane,
    ('{approaching,receding,N,NE,E,SE,S,SW,W,NW}'::text[])[p.direction + 1] AS direction,
    p.vehicle_class,
    p.length_cm / 100.0::float8 AS length_m,
    p.speed_limit_kmh,
    p.violation,
    p.confidence_permille / 1000.0::float8 AS confidence,
    p.stream_key,
    p.seq
FROM passage p
JOIN device d USING (device_key);

COMMENT ON VIEW v_passage IS 'Single passages, without plates and without fields unknown to Verst. Name a range of event_time in every query: only days in it are read.';
COMMENT ON COLUMN v_passage.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_passage.event_time IS 'When it happened, by the unit''s clock, whole milliseconds.';
COMMENT ON COLUMN v_passage.speed_kmh IS 'Speed in km/h; NULL when it was not measured.';
COMMENT ON COLUMN v_passage.lane IS 'Lane, 0 to 15, as the unit numbers them.';
COMMENT ON COLUMN v_passage.direction IS 'approaching or receding, relative to the camera, or N, NE, … by compass.';
COMMENT ON COLUMN v_passage.vehicle_class IS 'Vehicle class, 0 to 15, as the unit classifies.';
COMMENT ON COLUMN v_passage.length_m IS 'Length of the vehicle in m.';
COMMENT ON COLUMN v_passage.speed_limit_kmh IS 'The limit in force in km/h.';
COMMENT ON COLUMN v_passage.violation IS 'Whether the unit reported a violation.';
COMMENT ON COLUMN v_passage.confidence IS 'How sure the unit is of its reading, 0 to 1.';
COMMENT ON COLUMN v_passage.stream_key IS 'The run of the agent that accepted it; with seq it names the passage.';
COMMENT ON COLUMN v_passage.seq IS 'Its number in that stream, from 1.';

CREATE VIEW v_loss AS
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
    l.booked_at
FROM loss_ledger l
JOIN device d USING (device_key);

COMMENT ON VIEW v_loss IS 'The loss ledger: every passage that was accepted by a unit and is known to be lost.';
COMMENT ON COLUMN v_loss.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_loss.stream_key IS 'The run of the agent that accepted them.';
COMMENT ON COLUMN v_loss.first_seq IS 'First number of the range.';
COMMENT ON COLUMN v_loss.last_seq IS 'Last number of the range.';
COMMENT ON COLUMN v_loss.passages IS 'Passages of the range that are still lost; others were counted after all.';
COMMENT ON COLUMN v_loss.scope IS 'all: in no window and no table; raw_only: the windows have them.';
COMMENT ON COLUMN v_loss.reason IS 'Why: quota, corrupt, refused, operator, vanished, centre_lost.';
COMMENT ON COLUMN v_loss.event_min IS 'No lost passage is older; NULL when not known.';
COMMENT ON COLUMN v_loss.event_max IS 'No lost passage is newer; NULL when not known.';
COMMENT ON COLUMN v_loss.booked_at IS 'When the loss was booked, by the clock of the database.';

-- Lags by time, not by row: a gap gives NULL instead of an older window. Each is a left join on a
-- primary key, which the planner leaves out when no column of it is asked for.
CREATE VIEW v_ml_5m AS
SELECT
    v.device,
    v.window_start,
    v.window_end,
    v.state,
    v.complete,
    v.vehicles,
    v.flow_veh_h,
    v.mean_speed_kmh,
    v.space_mean_speed_kmh,
    v.flow_veh_h / nullif(v.space_mean_speed_kmh, 0) AS density_veh_km,
    v.std_dev_kmh,
    v.std_dev_kmh / nullif(v.mean_speed_kmh, 0) AS speed_variation,
    v.min_speed_kmh,
    v.max_speed_kmh,
    v.v15_kmh,
    v.v50_kmh,
    v.v85_kmh,
    v.v95_kmh,
    v.violations::float8 / v.vehicles AS violation_share,
    (SELECT coalesce(sum(n), 0) FROM unnest(v.vehicles_by_class[5:14]) AS n)::float8
        / nullif((SELECT sum(n) FROM unnest(v.vehicles_by_class) AS n), 0) AS heavy_share,
    v.vehicles_by_class,
    v.vehicles_by_lane,
    v.mean_speed_by_lane_kmh,
    extract(hour FROM v.window_start AT TIME ZONE 'UTC')::int4 AS hour_of_day_utc,
    extract(isodow FROM v.window_start AT TIME ZONE 'UTC')::int4 AS day_of_week_utc,
    extract(epoch FROM v.window_start)::int8 / 300 % 288 AS window_of_day_utc,
    sin(2 * pi() * (extract(epoch FROM v.window_start)::int8 / 300 % 288) / 288) AS day_sin,
    cos(2 * pi() * (extract(epoch FROM v.window_start)::int8 / 300 % 288) / 288) AS day_cos,
    l1.n AS vehicles_lag_5m,
    l2.n AS vehicles_lag_10m,
    l3.n AS vehicles_lag_15m,
    l12.n AS vehicles_lag_1h,
    l288.n AS vehicles_lag_24h,
    l2016.n AS vehicles_lag_7d,
    l1.sum_ckmh / (100.0::float8 * nullif(l1.n_speed, 0)) AS mean_speed_lag_5m_kmh,
    l2.sum_ckmh / (100.0::float8 * nullif(l2.n_speed, 0)) AS mean_speed_lag_10m_kmh,
    l3.sum_ckmh / (100.0::float8 * nullif(l3.n_speed, 0)) AS mean_speed_lag_15m_kmh,
    l12.sum_ckmh / (100.0::float8 * nullif(l12.n_speed, 0)) AS mean_speed_lag_1h_kmh,
    l288.sum_ckmh / (100.0::float8 * nullif(l288.n_speed, 0)) AS mean_speed_lag_24h_kmh,
    l2016.sum_ckmh / (100.0::float8 * nullif(l2016.n_speed, 0)) AS mean_speed_lag_7d_kmh
FROM v_speed_5m v
LEFT JOIN speed_stats_5m l1
    ON l1.device_key = v.device_key AND l1.bucket = v.window_start - interval '5 minutes'
LEFT JOIN speed_stats_5m l2
    ON l2.device_key = v.device_key AND l2.bucket = v.window_start - interval '10 minutes'
LEFT JOIN speed_stats_5m l3
    ON l3.device_key = v.device_key AND l3.bucket = v.window_start - interval '15 minutes'
LEFT JOIN speed_stats_5m l12
    ON l12.device_key = v.device_key AND l12.bucket = v.window_start - interval '1 hour'
LEFT JOIN speed_stats_5m l288
    ON l288.device_key = v.device_key AND l288.bucket = v.window_start - interval '24 hours'
LEFT JOIN speed_stats_5m l2016
    ON l2016.device_key = v.device_key AND l2016.bucket = v.window_start - interval '168 hours';

COMMENT ON VIEW v_ml_5m IS 'Features for learning, one row for each unit and 5-minute window in which a vehicle was counted. Train on rows whose state is not partial.';
COMMENT ON COLUMN v_ml_5m.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_ml_5m.window_start IS 'First instant of the window, aligned to UTC.';
COMMENT ON COLUMN v_ml_5m.window_end IS 'First instant after the window.';
COMMENT ON COLUMN v_ml_5m.state IS 'partial, final or revised, as in v_speed_5m.';
COMMENT ON COLUMN v_ml_5m.complete IS 'False when passages that may belong to the window are known to be lost (v_loss).';
COMMENT ON COLUMN v_ml_5m.vehicles IS 'Vehicles counted.';
COMMENT ON COLUMN v_ml_5m.flow_veh_h IS 'Flow in vehicles per hour.';
COMMENT ON COLUMN v_ml_5m.mean_speed_kmh IS 'Time-mean speed in km/h.';
COMMENT ON COLUMN v_ml_5m.space_mean_speed_kmh IS 'Space-mean (harmonic) speed in km/h.';
COMMENT ON COLUMN v_ml_5m.density_veh_km IS 'Density in vehicles per km: flow divided by space-mean speed.';
COMMENT ON COLUMN v_ml_5m.std_dev_kmh IS 'Sample standard deviation of the speeds in km/h.';
COMMENT ON COLUMN v_ml_5m.speed_variation IS 'Coefficient of variation of the speeds: standard deviation divided by mean, no unit.';
COMMENT ON COLUMN v_ml_5m.min_speed_kmh IS 'Lowest speed in km/h.';
COMMENT ON COLUMN v_ml_5m.max_speed_kmh IS 'Highest speed in km/h.';
COMMENT ON COLUMN v_ml_5m.v15_kmh IS 'Speed in km/h that 15 % of the vehicles do not exceed.';
COMMENT ON COLUMN v_ml_5m.v50_kmh IS 'Median speed in km/h.';
COMMENT ON COLUMN v_ml_5m.v85_kmh IS 'Speed in km/h that 85 % of the vehicles do not exceed.';
COMMENT ON COLUMN v_ml_5m.v95_kmh IS 'Speed in km/h that 95 % of the vehicles do not exceed.';
COMMENT ON COLUMN v_ml_5m.violation_share IS 'Violations divided by vehicles, 0 to 1.';
COMMENT ON COLUMN v_ml_5m.heavy_share IS 'Share of buses and lorries among the vehicles with a class, 0 to 1, where classes are those of FHWA''s scheme F (4 to 13 are heavy); NULL without classes.';
COMMENT ON COLUMN v_ml_5m.vehicles_by_class IS 'Vehicles by class: element 1 is class 0.';
COMMENT ON COLUMN v_ml_5m.vehicles_by_lane IS 'Vehicles by lane: element 1 is lane 0.';
COMMENT ON COLUMN v_ml_5m.mean_speed_by_lane_kmh IS 'Time-mean speed by lane in km/h: element 1 is lane 0.';
COMMENT ON COLUMN v_ml_5m.hour_of_day_utc IS 'Hour of the window''s start in UTC, 0 to 23. For local hours: window_start AT TIME ZONE ''Europe/Moscow''.';
COMMENT ON COLUMN v_ml_5m.day_of_week_utc IS 'Day of the week of the window''s start in UTC, 1 Monday to 7 Sunday.';
COMMENT ON COLUMN v_ml_5m.window_of_day_utc IS 'Number of the window in its UTC day, 0 to 287.';
COMMENT ON COLUMN v_ml_5m.day_sin IS 'Sine of the time of day (UTC) as an angle, −1 to 1.';
COMMENT ON COLUMN v_ml_5m.day_cos IS 'Cosine of the time of day (UTC) as an angle, −1 to 1.';
DO $notes$
DECLARE
    lag record;
BEGIN
    FOR lag IN SELECT * FROM (VALUES
        ('5m', '5 minutes'), ('10m', '10 minutes'), ('15m', '15 minutes'),
        ('1h', '1 hour'), ('24h', '24 hours'), ('7d', '7 days')
    ) AS lags(suffix, words) LOOP
        EXECUTE format('COMMENT ON COLUMN v_ml_5m.vehicles_lag_%s IS %L', lag.suffix, format(
            'Vehicles in the window that began %s earlier; NULL when it counted none.', lag.words));
        EXECUTE format('COMMENT ON COLUMN v_ml_5m.mean_speed_lag_%s_kmh IS %L', lag.suffix, format(
            'Time-mean speed in km/h in the window that began %s earlier.', lag.words));
    END LOOP;
END
$notes$;
