//! ● Windows added up one passage at a time, in the plainest way.

use std::collections::BTreeMap;

use super::event::Fact;

/// Windows of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interval {
    /// 5 minutes.
    FiveMinutes,
    /// 1 hour.
    Hour,
    /// 24 hours, UTC.
    Day,
}

impl Interval {
    /// From the shortest to the longest.
    pub const ALL: [Self; 3] = [Self::FiveMinutes, Self::Hour, Self::Day];

    /// Its name in table names and questions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "24h",
        }
    }

    /// Its length.
    #[must_use]
    pub const fn ms(self) -> i64 {
        match self {
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

/// One window of one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    /// The device.
    pub device: String,
    /// The length.
    pub interval: Interval,
    /// First instant, milliseconds since 1970.
    pub start_ms: i64,
}

/// What the passages of one lane add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Passages.
    pub n: i64,
    /// Passages with a speed.
    pub n_speed: i64,
    /// Sum of the speeds, 0.01 km/h.
    pub sum_ckmh: i64,
}

/// What the passages of one window add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Passages.
    pub n: i64,
    /// With a speed.
    pub n_speed: i64,
    /// Of at least 1 km/h.
    pub n_moving: i64,
    /// Violations.
    pub violations: i64,
    /// Sum of the speeds, 0.01 km/h.
    pub sum_ckmh: i64,
    /// Sum of their squares.
    pub sumsq_ckmh2: i64,
    /// Sum of the paces of those that move, each rounded to whole milliseconds per km.
    pub pace_sum_ms_per_km: i64,
    /// Lowest speed.
    pub min_ckmh: Option<i32>,
    /// Highest speed.
    pub max_ckmh: Option<i32>,
    /// Passages by whole km/h.
    pub histogram: BTreeMap<i32, i64>,
    /// Passages by class.
    pub classes: BTreeMap<i16, i64>,
    /// By lane.
    pub lanes: BTreeMap<i16, LaneStats>,
}

impl Stats {
    /// Adds one vehicle.
    pub fn add(&mut self, fact: &Fact) {
        self.n += 1;
        self.violations += i64::from(fact.violation);
        if let Some(class) = fact.vehicle_class {
            *self.classes.entry(class).or_default() += 1;
        }
        if let Some(lane) = fact.lane {
            self.lanes.entry(lane).or_default().n += 1;
        }
        let Some(speed) = fact.speed_ckmh else { return };
        let wide = i64::from(speed);
        self.n_speed += 1;
        self.sum_ckmh += wide;
        self.sumsq_ckmh2 += wide * wide;
        self.min_ckmh = Some(self.min_ckmh.map_or(speed, |min| min.min(speed)));
        self.max_ckmh = Some(self.max_ckmh.map_or(speed, |max| max.max(speed)));
        *self.histogram.entry(speed / 100).or_default() += 1;
        if speed >= 100 {
            self.n_moving += 1;
            // 3,600,000 ms/h over km/h, to the nearest whole number.
            self.pace_sum_ms_per_km += (2 * 360_000_000 + wide) / (2 * wide);
        }
        if let Some(lane) = fact.lane {
            let lane = self.lanes.entry(lane).or_default();
            lane.n_speed += 1;
            lane.sum_ckmh += wide;
        }
    }

    /// The speed in 0.01 km/h that `percent` of the vehicles do not exceed: linear within its bin
    /// of 1 km/h, cut to whole 0.01 km/h, never outside the speeds that were seen.
    #[must_use]
    pub fn percentile_ckmh(&self, percent: i64) -> Option<i32> {
        let (min, max) = (self.min_ckmh?, self.max_ckmh?);
        let wanted = self.n_speed * percent;
        let mut below = 0;
        for (kmh, count) in &self.histogram {
            if (below + count) * 100 >= wanted {
                let into_bin = (wanted - below * 100) / count;
                let speed = i64::from(*kmh) * 100 + into_bin;
                return i32::try_from(speed).ok().map(|speed| speed.clamp(min, max));
            }
            below += count;
        }
        Some(max)
    }

    /// Time-mean speed in 0.01 km/h, to the nearest whole one, halves upwards.
    #[must_use]
    pub fn mean_ckmh(&self) -> Option<i64> {
        (self.n_speed > 0).then(|| rounded(self.sum_ckmh, self.n_speed))
    }

    /// Space-mean speed in 0.01 km/h: the harmonic mean of those that move.
    #[must_use]
    pub fn harmonic_mean_ckmh(&self) -> Option<i64> {
        (self.n_moving > 0).then(|| rounded(self.n_moving * 360_000_000, self.pace_sum_ms_per_km))
    }
}

/// The nearest whole number to a quotient, halves upwards.
fn rounded(dividend: i64, divisor: i64) -> i64 {
    (dividend + divisor / 2) / divisor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::event::PlateFact;

    fn fact(speed_ckmh: Option<i32>, lane: i16) -> Fact {
        Fact {
            event_ms: 0,
            speed_ckmh,
            lane: Some(lane),
            direction: None,
            vehicle_class: Some(2),
            length_cm: None,
            speed_limit_kmh: None,
            confidence_permille: None,
            violation: speed_ckmh > Some(10_000),
            plate: PlateFact::Absent,
            extra: None,
        }
    }

    #[test]
    fn four_vehicles_add_up_as_on_paper() {
        let mut stats = Stats::default();
        [Some(9_000), None, Some(0), Some(12_000)]
            .into_iter()
            .for_each(|speed| stats.add(&fact(speed, 1)));
        let expected = Stats {
            n: 4,
            n_speed: 3,
            n_moving: 2,
            violations: 1,
            sum_ckmh: 21_000,
            sumsq_ckmh2: 225_000_000,
            pace_sum_ms_per_km: 40_000 + 30_000,
            min_ckmh: Some(0),
            max_ckmh: Some(12_000),
            histogram: BTreeMap::from([(0, 1), (90, 1), (120, 1)]),
            classes: BTreeMap::from([(2, 4)]),
            lanes: BTreeMap::from([(
                1,
                LaneStats {
                    n: 4,
                    n_speed: 3,
                    sum_ckmh: 21_000,
                },
            )]),
        };
        assert_eq!(stats, expected);
        assert_eq!(stats.mean_ckmh(), Some(7_000));
        // 2 / (1/90 + 1/120) = 102.857…
        assert_eq!(stats.harmonic_mean_ckmh(), Some(10_286));
        assert_eq!(stats.percentile_ckmh(50), Some(9_050));
        assert_eq!(stats.percentile_ckmh(95), Some(12_000));
    }

    #[test]
    fn without_speeds_there_is_nothing_to_average() {
        let mut stats = Stats::default();
        stats.add(&fact(None, 0));
        assert_eq!(
            (stats.n, stats.mean_ckmh(), stats.percentile_ckmh(50)),
            (1, None, None)
        );
    }
}
