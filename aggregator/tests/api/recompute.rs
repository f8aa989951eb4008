//! What an answer must say, of one unit or of many, computed from the passages.

use std::ops::Range;

use aggregator::api::utc::Utc;
use aggregator::store::reader::Interval;
use proto::passage::{Passage, Speed};
use proto::window::SpeedStats;
use serde_json::Value;

use crate::traffic::windows;

pub(crate) fn utc(ms: i64) -> String {
    Utc::from_millis(ms).to_string()
}

/// Both to the hundredth; exact halves may be rounded either way by a floating division.
#[track_caller]
fn same_speed(shown: &Value, expected: Option<f64>) {
    match (shown.as_f64(), expected) {
        (Some(shown), Some(expected)) => {
            assert!(
                (shown - expected).abs() <= 0.005_000_1,
                "{shown} for {expected}"
            );
            assert!(
                (shown * 100.0 - (shown * 100.0).round()).abs() < 1e-6,
                "{shown}"
            );
        }
        (shown, expected) => assert_eq!(shown, expected),
    }
}

#[track_caller]
fn same_statistics(shown: &Value, expected: &SpeedStats) {
    assert_eq!(shown["vehicles"], expected.n);
    same_speed(&shown["avg_speed"], expected.time_mean_kmh());
    same_speed(&shown["space_mean_speed"], expected.space_mean_kmh());
    assert_eq!(
        shown["p50"].as_f64(),
        expected.percentile(50).map(Speed::kmh)
    );
    assert_eq!(
        shown["p85"].as_f64(),
        expected.percentile(85).map(Speed::kmh)
    );
}

/// Compares the whole and each window of an answer about this time; returns the windows with vehicles.
#[track_caller]
pub(crate) fn assert_recomputed<'a>(
    answer: &'a Value,
    passages: &[Passage],
    time_ms: Range<i64>,
    interval: Interval,
) -> Vec<&'a Value> {
    let expected = windows(passages, interval);
    let expected: Vec<_> = expected
        .iter()
        .filter(|(start, _)| time_ms.contains(start))
        .collect();

    let mut whole = SpeedStats::default();
    expected.iter().for_each(|(_, stats)| whole.merge(stats));
    same_statistics(answer, &whole);

    let shown: Vec<&Value> = answer["windows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|window| window["vehicles"] != 0)
        .collect();
    assert_eq!(shown.len(), expected.len());
    for (shown, (start, stats)) in shown.iter().zip(expected) {
        assert_eq!(shown["start"], utc(*start));
        assert_eq!(shown["end"], utc(start + interval.length_ms()));
        same_statistics(shown, stats);
        same_speed(&shown["std_dev"], stats.standard_deviation_kmh());
        assert_eq!(shown["min_speed"].as_f64(), stats.min.map(Speed::kmh));
        assert_eq!(shown["max_speed"].as_f64(), stats.max.map(Speed::kmh));
        assert_eq!(shown["violations"], stats.violations);
    }
    shown
}
