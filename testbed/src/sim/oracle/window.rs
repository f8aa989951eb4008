//! ● A window of the product in the form of the recomputation.

use std::collections::BTreeMap;

use aggregator::window::rollup::Length;
use proto::window::SpeedStats;

use crate::recompute::stats::LaneStats;
use crate::recompute::{Interval, Stats};

pub(super) const fn interval(length: Length) -> Interval {
    match length {
        Length::Minutes5 => Interval::FiveMinutes,
        Length::Hour1 => Interval::Hour,
        Length::Hours24 => Interval::Day,
    }
}

/// A window of the product in the form of the recomputation.
pub(super) fn recomputed(stats: &SpeedStats) -> Stats {
    let histogram = stats
        .histogram
        .counts()
        .iter()
        .zip(i32::from(stats.histogram.lowest_kmh())..);
    let by_place = |counts: &[u32]| -> BTreeMap<i16, i64> {
        let used = counts.iter().zip(0_i16..).filter(|(count, _)| **count > 0);
        used.map(|(count, place)| (place, i64::from(*count)))
            .collect()
    };
    let lanes = by_place(&stats.lane_n).into_iter().map(|(lane, n)| {
        let place = usize::from(lane.unsigned_abs());
        let lane_stats = LaneStats {
            n,
            n_speed: stats.lane_n_speed[place].into(),
            sum_ckmh: signed(stats.lane_sum_ckmh[place]),
        };
        (lane, lane_stats)
    });
    Stats {
        n: stats.n.into(),
        n_speed: stats.n_speed.into(),
        n_moving: stats.n_moving.into(),
        violations: stats.violations.into(),
        sum_ckmh: signed(stats.sum_ckmh),
        sumsq_ckmh2: signed(stats.sumsq_ckmh2),
        pace_sum_ms_per_km: signed(stats.pace_sum_ms_per_km),
        min_ckmh: stats.min.map(|speed| speed.centi_kmh().into()),
        max_ckmh: stats.max.map(|speed| speed.centi_kmh().into()),
        histogram: histogram
            .filter(|(count, _)| **count > 0)
            .map(|(count, kmh)| (kmh, i64::from(*count)))
            .collect(),
        classes: by_place(&stats.class_n),
        lanes: lanes.collect(),
    }
}

fn signed(sum: u64) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}
