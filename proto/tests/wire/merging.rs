//! Window statistics do not depend on how the passages were split or in which order they came.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::PassageBatch;
use proto::passage::{EventTime, Passage, Speed};
use proto::window::{self, Bucket, SpeedStats, WindowDelta};

use crate::arbitrary;

/// The same statistics the slow way, one passage at a time, without the crate's folding.
fn naive(passages: &[Passage]) -> BTreeMap<Bucket, SpeedStats> {
    let mut groups: BTreeMap<Bucket, Vec<&Passage>> = BTreeMap::new();
    for passage in passages {
        groups
            .entry(Bucket::of(passage.event_time))
            .or_default()
            .push(passage);
    }
    groups
        .into_iter()
        .map(|(bucket, group)| (bucket, naive_stats(&group)))
        .collect()
}

fn naive_stats(group: &[&Passage]) -> SpeedStats {
    let count = |wanted: &dyn Fn(&Passage) -> bool| {
        u32::try_from(group.iter().filter(|passage| wanted(passage)).count()).unwrap()
    };
    let speeds: Vec<u64> = group
        .iter()
        .filter_map(|p| p.speed)
        .map(|s| u64::from(s.centi_kmh()))
        .collect();
    let paces = speeds
        .iter()
        .filter(|s| **s >= 100)
        .map(|s| (360_000_000 + s / 2) / s);
    let lane = |lane: usize| {
        move |passage: &Passage| passage.lane.is_some_and(|l| usize::from(l.get()) == lane)
    };
    let lowest = speeds.iter().min().map_or(0, |s| s / 100);
    let highest = speeds.iter().max().map_or(0, |s| s / 100);
    let bins = if speeds.is_empty() {
        lowest..lowest
    } else {
        lowest..highest + 1
    };
    let histogram = window::Histogram::from_parts(
        u16::try_from(lowest).unwrap(),
        bins.map(|bin| {
            count(&|p| {
                p.speed
                    .is_some_and(|s| u64::from(s.centi_kmh()) / 100 == bin)
            })
        })
        .collect(),
    );
    let extreme =
        |speed: Option<&u64>| speed.and_then(|s| Speed::from_centi_kmh(u16::try_from(*s).unwrap()));
    SpeedStats {
        n: count(&|_| true),
        n_speed: count(&|p| p.speed.is_some()),
        n_moving: count(&|p| p.speed.is_some_and(|s| s.centi_kmh() >= 100)),
        violations: count(&|p| p.violation),
        sum_ckmh: speeds.iter().sum(),
        sumsq_ckmh2: speeds.iter().map(|s| s * s).sum(),
        pace_sum_ms_per_km: paces.sum(),
        min: extreme(speeds.iter().min()),
        max: extreme(speeds.iter().max()),
        histogram: histogram.unwrap(),
        class_n: std::array::from_fn(|class| {
            count(&|p| {
                p.vehicle_class
                    .is_some_and(|c| usize::from(c.get()) == class)
            })
        }),
        lane_n: std::array::from_fn(|l| count(&lane(l))),
        lane_n_speed: std::array::from_fn(|l| count(&|p| lane(l)(p) && p.speed.is_some())),
        lane_sum_ckmh: std::array::from_fn(|l| {
            let of_lane = group.iter().filter(|p| lane(l)(p));
            of_lane
                .filter_map(|p| p.speed)
                .map(|s| u64::from(s.centi_kmh()))
                .sum()
        }),
    }
}

fn merged(deltas: impl IntoIterator<Item = WindowDelta>) -> BTreeMap<Bucket, SpeedStats> {
    let mut windows: BTreeMap<Bucket, SpeedStats> = BTreeMap::new();
    deltas
        .into_iter()
        .for_each(|delta| windows.entry(delta.bucket).or_default().merge(&delta.stats));
    windows
}

proptest! {
    #[test]
    fn any_split_and_order_merges_to_the_same_bits(
        passages in prop::collection::vec(arbitrary::passage(), 1..200),
        shuffled_by in any::<u64>(),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let expected = naive(&passages);
        let mut shuffled = passages;
        // A permutation that depends on the drawn number only.
        shuffled.sort_by_cached_key(|p| (shuffled_by ^ u64::from(p.speed.map_or(0, Speed::centi_kmh))).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut deltas = Vec::new();
        let mut rest = shuffled.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let batch: PassageBatch = now.iter().cloned().collect();
            deltas.push(window::fold(&batch, |_| true));
            rest = later;
        }
        deltas.reverse();
        for delta in deltas.iter().flatten() {
            prop_assert_eq!(delta.check(), Ok(()));
        }
        prop_assert_eq!(merged(deltas.into_iter().flatten()), expected);
    }

    #[test]
    fn a_fold_of_some_places_is_the_fold_of_those_passages(
        batch in arbitrary::batch(),
        kept in prop::collection::vec(any::<bool>(), 120),
    ) {
        let some: PassageBatch =
            batch.iter().enumerate().filter(|(place, _)| kept[*place]).map(|(_, p)| p).collect();
        prop_assert_eq!(window::fold(&batch, |place| kept[place]), window::fold(&some, |_| true));
    }

    #[test]
    fn percentiles_lie_within_a_bin_of_the_exact_ones(batch in arbitrary::batch(), percent in 1_u8..=100) {
        for delta in window::fold(&batch, |_| true) {
            let of_window = batch.iter().filter(|p| Bucket::of(p.event_time) == delta.bucket);
            let mut speeds: Vec<u16> = of_window.filter_map(|p| p.speed).map(Speed::centi_kmh).collect();
            speeds.sort_unstable();
            let percentile = delta.stats.percentile(percent).map(Speed::centi_kmh);
            prop_assert_eq!(percentile.is_some(), !speeds.is_empty());
            if let Some(percentile) = percentile {
                let rank = (speeds.len() * usize::from(percent)).div_ceil(100).max(1);
                let exact = speeds[rank - 1];
                prop_assert!(percentile.abs_diff(exact) <= 100, "{} {}", percentile, exact);
            }
        }
    }
}

#[test]
fn means_are_those_of_the_textbook() {
    let at = |speed: f64| Passage {
        event_time: EventTime::from_millis(1_760_000_000_000),
        speed: Some(Speed::from_kmh(speed).unwrap()),
        ..Passage::default()
    };
    let batch: PassageBatch = [at(60.0), at(120.0), at(0.0)].into_iter().collect();
    let stats = window::fold(&batch, |_| true).remove(0).stats;
    assert_eq!(stats.time_mean_kmh(), Some(60.0));
    // 60 s and 30 s for a kilometre: 2 km in 90 s. The standing vehicle has no pace.
    assert_eq!(stats.space_mean_kmh(), Some(80.0));
    assert_eq!(stats.standard_deviation_kmh(), Some(60.0));
    assert_eq!(stats.n_moving, 2);
}
