//! Passages into window deltas: the one piece of code that both sides use.

use std::collections::BTreeMap;

use super::stats::{BINS, Histogram, MOVING_CENTI_KMH, MS_PER_KM_AT_ONE_CENTI_KMH, SpeedStats};
use super::{Bucket, WindowDelta};
use crate::batch::{NONE_U16, PassageBatch};
use crate::limits::{CLASSES, LANES};
use crate::passage::Speed;

/// Folds the passages whose places `keep` accepts into one delta per window, by ascending window.
pub fn fold(batch: &PassageBatch, keep: impl Fn(usize) -> bool) -> Vec<WindowDelta> {
    let mut windows: BTreeMap<Bucket, Box<Accumulator>> = BTreeMap::new();
    let mut place = 0;
    while place < batch.len() {
        // Passages come nearly in order: a whole run falls into one window.
        let bucket = Bucket::of(batch.event_time(place));
        let (start, end) = (bucket.start().as_millis(), bucket.end().as_millis());
        let run = batch.event_ms[place..]
            .iter()
            .position(|ms| !(start..end).contains(ms))
            .map_or(batch.len(), |length| place + length);
        if (place..run).any(&keep) {
            let window = windows.entry(bucket).or_default();
            (place..run)
                .filter(|place| keep(*place))
                .for_each(|place| window.add(batch, place));
        }
        place = run;
    }
    windows
        .into_iter()
        .map(|(bucket, window)| WindowDelta {
            bucket,
            stats: window.finish(),
        })
        .collect()
}

/// Statistics in the making, with a dense histogram and a place for "no lane" and "no class".
struct Accumulator {
    n: u32,
    n_speed: u32,
    n_moving: u32,
    violations: u32,
    sum_ckmh: u64,
    sumsq_ckmh2: u64,
    pace_sum_ms_per_km: u64,
    min: u16,
    max: u16,
    bins: [u32; BINS],
    class_n: [u32; CLASSES + 1],
    lane_n: [u32; LANES + 1],
    lane_n_speed: [u32; LANES + 1],
    lane_sum_ckmh: [u64; LANES + 1],
}

impl Default for Accumulator {
    fn default() -> Self {
        Self {
            n: 0,
            n_speed: 0,
            n_moving: 0,
            violations: 0,
            sum_ckmh: 0,
            sumsq_ckmh2: 0,
            pace_sum_ms_per_km: 0,
            min: u16::MAX,
            max: 0,
            bins: [0; BINS],
            class_n: [0; CLASSES + 1],
            lane_n: [0; LANES + 1],
            lane_n_speed: [0; LANES + 1],
            lane_sum_ckmh: [0; LANES + 1],
        }
    }
}

impl Accumulator {
    fn add(&mut self, batch: &PassageBatch, place: usize) {
        let lane = usize::from(batch.lane[place]).min(LANES);
        let class = usize::from(batch.class[place]).min(CLASSES);
        let speed = batch.speed[place];
        self.n += 1;
        self.violations += u32::from(batch.violation[place]);
        self.class_n[class] += 1;
        self.lane_n[lane] += 1;
        if speed == NONE_U16 {
            return;
        }
        self.n_speed += 1;
        self.sum_ckmh += u64::from(speed);
        self.sumsq_ckmh2 += u64::from(speed) * u64::from(speed);
        self.min = self.min.min(speed);
        self.max = self.max.max(speed);
        self.bins[usize::from(speed / 100).min(BINS - 1)] += 1;
        self.lane_n_speed[lane] += 1;
        self.lane_sum_ckmh[lane] += u64::from(speed);
        if speed >= MOVING_CENTI_KMH {
            self.n_moving += 1;
            let centi = u32::from(speed);
            self.pace_sum_ms_per_km += u64::from((MS_PER_KM_AT_ONE_CENTI_KMH + centi / 2) / centi);
        }
    }

    fn finish(&self) -> SpeedStats {
        let seen = |speed: u16| Speed::from_centi_kmh(speed).filter(|_| self.n_speed > 0);
        SpeedStats {
            n: self.n,
            n_speed: self.n_speed,
            n_moving: self.n_moving,
            violations: self.violations,
            sum_ckmh: self.sum_ckmh,
            sumsq_ckmh2: self.sumsq_ckmh2,
            pace_sum_ms_per_km: self.pace_sum_ms_per_km,
            min: seen(self.min),
            max: seen(self.max),
            histogram: Histogram::from_dense(&self.bins),
            class_n: without_last(&self.class_n),
            lane_n: without_last(&self.lane_n),
            lane_n_speed: without_last(&self.lane_n_speed),
            lane_sum_ckmh: without_last(&self.lane_sum_ckmh),
        }
    }
}

fn without_last<T: Copy + Default, const N: usize, const M: usize>(all: &[T; M]) -> [T; N] {
    std::array::from_fn(|place| all[place])
}
