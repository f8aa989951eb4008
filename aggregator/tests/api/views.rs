//! The views that people and programs read by SQL.

use aggregator::store::reader::Interval;
use proto::passage::Speed;

use crate::centre::Centre;
use crate::traffic::{MIDNIGHT_MS, passage, settle, store, traffic, unit, windows};

#[tokio::test]
async fn every_view_and_column_says_what_it_is() {
    let centre = Centre::start().await;
    let silent = "SELECT string_agg(c.relname || coalesce('.' || a.attname, ''), ' ')
        FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace
          AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)";
    assert_eq!(centre.value(silent).await, None);
    let views = "SELECT string_agg(viewname, ' ' ORDER BY viewname) FROM pg_views
        WHERE schemaname = 'public'";
    let expected = "v_backlog v_device v_finality v_history v_ledger v_loss v_ml_5m v_passage v_speed_1h \
                    v_speed_24h v_speed_5m v_speed_version_1h v_speed_version_24h v_speed_version_5m";
    assert_eq!(centre.value(views).await.as_deref(), Some(expected));
}

#[tokio::test]
async fn the_views_hold_the_statistics_in_kmh() {
    let centre = Centre::start().await;
    let passages = traffic(MIDNIGHT_MS, 26 * 60);
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &passages).await;
    for (interval, hours) in [
        (Interval::FiveMinutes, 1.0 / 12.0),
        (Interval::Hour, 1.0),
        (Interval::Day, 24.0),
    ] {
        let sql = format!(
            "SELECT (extract(epoch FROM window_start) * 1000)::int8, vehicles, flow_veh_h, \
             mean_speed_kmh, space_mean_speed_kmh, std_dev_kmh, min_speed_kmh, max_speed_kmh, \
             v15_kmh, v50_kmh, v85_kmh, v95_kmh, violations, device, vehicles_by_lane, \
             mean_speed_by_lane_kmh, complete, \
             (extract(epoch FROM window_end - window_start) * 1000)::int8 \
             FROM v_speed_{} ORDER BY window_start",
            interval.word()
        );
        let rows = centre.database.query(&sql, &[]).await.unwrap();
        let expected = windows(&passages, interval);
        assert_eq!(rows.len(), expected.len());
        for (row, (start, stats)) in rows.iter().zip(expected) {
            let near = |place: usize, expected: Option<f64>| {
                let shown: Option<f64> = row.get(place);
                match (shown, expected) {
                    (Some(shown), Some(expected)) => {
                        assert!((shown - expected).abs() < 1e-9, "{shown} for {expected}");
                    }
                    (shown, expected) => assert_eq!(shown, expected, "column {place}"),
                }
            };
            let percentile = |percent| stats.percentile(percent).map(Speed::kmh);
            assert_eq!(row.get::<_, i64>(0), start);
            assert_eq!(row.get::<_, i32>(1), i32::try_from(stats.n).unwrap());
            near(2, Some(f64::from(stats.n) / hours));
            near(3, stats.time_mean_kmh());
            near(4, stats.space_mean_kmh());
            near(5, stats.standard_deviation_kmh());
            near(6, stats.min.map(Speed::kmh));
            near(7, stats.max.map(Speed::kmh));
            near(8, percentile(15));
            near(9, percentile(50));
            near(10, percentile(85));
            near(11, percentile(95));
            assert_eq!(
                row.get::<_, i32>(12),
                i32::try_from(stats.violations).unwrap()
            );
            assert_eq!(row.get::<_, &str>(13), "KV1");
            let lanes: Vec<i32> = row.get(14);
            let means: Vec<Option<f64>> = row.get(15);
            assert_eq!(lanes.len(), means.len());
            for (lane, (n, mean)) in lanes.iter().zip(means).enumerate() {
                assert_eq!(*n, i32::try_from(stats.lane_n[lane]).unwrap());
                assert_eq!(mean.is_some(), stats.lane_n_speed[lane] > 0);
            }
            assert!(row.get::<_, bool>(16));
            assert_eq!(row.get::<_, i64>(17), interval.length_ms());
        }
    }
}

#[tokio::test]
async fn lags_go_by_time_and_a_gap_is_null() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    unit(&centre.database, "KV2").await;
    let minute = 60_000;
    let at = |minutes: i64, centi| passage(MIDNIGHT_MS + minutes * minute, Some(centi));
    let passages = [
        at(0, 4_000),
        at(5, 5_000),
        at(15, 6_000),
        at(60, 7_000),
        at(24 * 60, 8_000),
    ];
    store(&centre.database, "KV1", &passages).await;
    store(&centre.database, "KV2", &[at(10, 1_000)]).await;
    let lags = async |minutes: i64| {
        let sql = format!(
            "SELECT concat_ws(' ', coalesce(mean_speed_lag_5m_kmh::text, '-'), \
             coalesce(mean_speed_lag_10m_kmh::text, '-'), \
             coalesce(mean_speed_lag_15m_kmh::text, '-'), \
             coalesce(mean_speed_lag_1h_kmh::text, '-'), \
             coalesce(mean_speed_lag_24h_kmh::text, '-'), coalesce(vehicles_lag_7d::text, '-'), \
             hour_of_day_utc, day_of_week_utc, window_of_day_utc) FROM v_ml_5m \
             WHERE device = 'KV1' AND window_start = timestamptz '2025-04-05Z' \
             + interval '{minutes} minutes'"
        );
        centre.value(&sql).await.unwrap()
    };
    assert_eq!(lags(0).await, "- - - - - - 0 6 0");
    assert_eq!(lags(5).await, "40 - - - - - 0 6 1");
    assert_eq!(lags(15).await, "- 50 40 - - - 0 6 3");
    assert_eq!(lags(60).await, "- - - 40 - - 1 6 12");
    assert_eq!(lags(24 * 60).await, "- - - - 40 - 0 7 0");
}

#[tokio::test]
async fn heavy_share_counts_vehicles_with_a_class_only() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &[passage(MIDNIGHT_MS, None)]).await;
    let share = async |class_n: &str| {
        let sql = format!("UPDATE speed_stats_5m SET n = 10, class_n = '{class_n}'");
        centre.database.batch_execute(&sql).await.unwrap();
        centre
            .value("SELECT coalesce(heavy_share::text, '-') FROM v_ml_5m")
            .await
            .unwrap()
    };
    assert_eq!(share("{}").await, "-");
    assert_eq!(share("{0,0,4}").await, "0");
    assert_eq!(share("{0,0,3,0,1}").await, "0.25");
    assert_eq!(share("{1,0,0,1,0,0,0,0,0,0,0,0,0,1,1}").await, "0.25");
}

#[tokio::test]
async fn a_known_loss_makes_its_windows_incomplete() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let minutes = [0, 5, 10].map(|minute| MIDNIGHT_MS + minute * 60_000);
    store(
        &centre.database,
        "KV1",
        &minutes.map(|ms| passage(ms, None)),
    )
    .await;
    settle(&centre.database, "KV1", MIDNIGHT_MS + 900_000).await;
    let incomplete = async || {
        let sql = "SELECT coalesce(string_agg(to_char(window_start, 'MI'), ' '), '-') \
                   FROM v_speed_5m WHERE NOT complete";
        centre.value(sql).await.unwrap()
    };
    assert_eq!(incomplete().await, "-");
    let loss = "INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, scope, reason, \
                event_min, event_max) SELECT device_key, 1, 1, 10, 'all', 'quota', \
                '2025-04-05T00:05:00Z', '2025-04-05T00:09:59.999Z' FROM device";
    centre.database.batch_execute(loss).await.unwrap();
    assert_eq!(incomplete().await, "05");
    assert_eq!(
        centre.value("SELECT passages FROM v_loss").await.as_deref(),
        Some("10")
    );
    centre
        .database
        .batch_execute("UPDATE loss_ledger SET recovered = 10")
        .await
        .unwrap();
    assert_eq!(incomplete().await, "-");
    let raw = "UPDATE loss_ledger SET recovered = 0, scope = 'raw_only'";
    centre.database.batch_execute(raw).await.unwrap();
    assert_eq!(incomplete().await, "-");
}

#[tokio::test]
async fn passages_are_shown_without_plates_and_unknown_fields() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let put = "SELECT raw_days_prepare('{2025-04-05}');
        INSERT INTO passage SELECT '2025-04-05T10:15:30.123Z', 7, device_key, 3, 8520, 2, 3, 1,
        450, 90, 987, true, 'A123БВ68', '\\x01', '{\"driver\": \"secret\"}' FROM device";
    centre.database.batch_execute(put).await.unwrap();
    let whole = centre
        .value("SELECT v::text FROM v_passage v")
        .await
        .unwrap();
    let expected = "(KV1,\"2025-04-05 10:15:30.123+00\",85.2,2,NE,1,4.5,90,t,0.987,3,7)";
    assert_eq!(whole, expected);
}
