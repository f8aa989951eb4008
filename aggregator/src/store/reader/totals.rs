//! ● Exact sums over any number of windows.
//!
//! `proto::window::SpeedStats` counts one window in 32 bits; a question may span years of a busy
//! unit. The sums stay whole numbers until the last step, so the answer does not depend on which
//! windows it was put together from.

use proto::passage::Speed;
use proto::window::{BINS, percentile};

/// Sums of one window or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Passages.
    pub n: u64,
    /// Passages with a speed.
    pub n_speed: u64,
    /// Passages of at least 1 km/h.
    pub n_moving: u64,
    /// Passages reported as violations.
    pub violations: u64,
    /// Sum of the speeds, 0.01 km/h.
    pub sum_ckmh: u128,
    /// Sum of the squares of the speeds, (0.01 km/h)².
    pub sumsq_ckmh2: u128,
    /// Sum of the paces, whole milliseconds per km.
    pub pace_sum_ms_per_km: u128,
    /// The lowest and the highest speed.
    pub seen: Option<(Speed, Speed)>,
}

impl Sums {
    /// Adds the sums of other windows.
    pub fn add(&mut self, other: &Self) {
        self.n += other.n;
        self.n_speed += other.n_speed;
        self.n_moving += other.n_moving;
        self.violations += other.violations;
        self.sum_ckmh += other.sum_ckmh;
        self.sumsq_ckmh2 += other.sumsq_ckmh2;
        self.pace_sum_ms_per_km += other.pace_sum_ms_per_km;
        self.seen = match (self.seen, other.seen) {
            (Some((min, max)), Some((low, high))) => Some((min.min(low), max.max(high))),
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// Time-mean speed in km/h, to the nearest 0.01, halves upwards.
    #[must_use]
    pub fn time_mean_kmh(&self) -> Option<f64> {
        rounded_quotient(self.sum_ckmh, u128::from(self.n_speed)).map(kmh)
    }

    /// Space-mean (harmonic) speed in km/h of those that move, to the nearest 0.01.
    #[must_use]
    pub fn space_mean_kmh(&self) -> Option<f64> {
        let moved = u128::from(self.n_moving) * CKMH_MS_PER_KM;
        rounded_quotient(moved, self.pace_sum_ms_per_km).map(kmh)
    }

    /// Sample standard deviation of the speeds in km/h, to the nearest 0.01; none below two speeds.
    #[must_use]
    pub fn standard_deviation_kmh(&self) -> Option<f64> {
        let n = u128::from(self.n_speed);
        if n < 2 {
            return None;
        }
        let spread = (n * self.sumsq_ckmh2).saturating_sub(self.sum_ckmh * self.sum_ckmh);
        #[expect(
            clippy::cast_precision_loss,
            reason = "the last step of an exact computation"
        )]
        let variance = spread as f64 / (n * (n - 1)) as f64;
        Some(variance.sqrt().round() / 100.0)
    }
}

/// 0.01 km/h times milliseconds per km: what a pace and its speed multiply to.
const CKMH_MS_PER_KM: u128 = 360_000_000;

fn rounded_quotient(dividend: u128, divisor: u128) -> Option<u128> {
    (divisor > 0).then(|| (2 * dividend + divisor) / (2 * divisor))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a speed of at most 40,000 × 0.01 km/h"
)]
fn kmh(centi: u128) -> f64 {
    centi as f64 / 100.0
}

/// Sums with the histogram of the speeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Everything but the histogram.
    pub sums: Sums,
    bins: Box<[u64; BINS]>,
}

/// A histogram that does not fit the bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("histogram has {counts} bins from {lowest_kmh} km/h on, the last possible one is 400 km/h")]
pub struct HistogramError {
    lowest_kmh: i64,
    counts: usize,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            sums: Sums::default(),
            bins: Box::new([0; BINS]),
        }
    }
}

impl Totals {
    /// Memory that the histogram takes.
    pub const HISTOGRAM_BYTES: usize = size_of::<[u64; BINS]>();

    /// Adds one window: its sums, and the counts of its histogram from `lowest_kmh` on.
    ///
    /// # Errors
    /// When the histogram reaches beyond the last bin or counts less than nothing.
    pub fn add(
        &mut self,
        sums: &Sums,
        lowest_kmh: i64,
        counts: &[i32],
    ) -> Result<(), HistogramError> {
        let wrong = HistogramError {
            lowest_kmh,
            counts: counts.len(),
        };
        let first = usize::try_from(lowest_kmh).map_err(|_| wrong)?;
        let bins = self
            .bins
            .get_mut(first..)
            .and_then(|bins| bins.get_mut(..counts.len()));
        for (bin, count) in bins.ok_or(wrong)?.iter_mut().zip(counts) {
            *bin += u64::try_from(*count).map_err(|_| wrong)?;
        }
        self.sums.add(sums);
        Ok(())
    }

    /// Adds the totals of other windows.
    pub fn merge(&mut self, other: &Self) {
        for (bin, count) in self.bins.iter_mut().zip(other.bins.iter()) {
            *bin += count;
        }
        self.sums.add(&other.sums);
    }

    /// Of the windows that are left when others are taken off: `sums` is what is left, for the lowest
    /// and the highest speed cannot be taken off.
    #[must_use]
    pub fn without(&self, others: &Self, sums: Sums) -> Self {
        let mut bins = self.bins.clone();
        for (bin, count) in bins.iter_mut().zip(others.bins.iter()) {
            *bin = bin.saturating_sub(*count);
        }
        Self { sums, bins }
    }

    /// The speed in km/h that `percent` of the vehicles do not exceed.
    #[must_use]
    pub fn percentile_kmh(&self, percent: u8) -> Option<f64> {
        let bins = self.bins.iter().copied().enumerate();
        let seen = self.sums.seen?;
        Some(percentile(bins, self.sums.n_speed, percent, seen).kmh())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::batch::PassageBatch;
    use proto::passage::{EventTime, Passage};
    use proto::window::{SpeedStats, fold};

    use super::*;

    fn stats(speeds: &[u16]) -> SpeedStats {
        let mut batch = PassageBatch::new();
        for centi in speeds {
            batch.push(&Passage {
                event_time: EventTime::from_millis(1_000),
                speed: Speed::from_centi_kmh(*centi),
                ..Passage::default()
            });
        }
        fold(&batch, |_| true).remove(0).stats
    }

    fn sums(stats: &SpeedStats) -> Sums {
        Sums {
            n: stats.n.into(),
            n_speed: stats.n_speed.into(),
            n_moving: stats.n_moving.into(),
            violations: stats.violations.into(),
            sum_ckmh: stats.sum_ckmh.into(),
            sumsq_ckmh2: stats.sumsq_ckmh2.into(),
            pace_sum_ms_per_km: stats.pace_sum_ms_per_km.into(),
            seen: stats.min.zip(stats.max),
        }
    }

    fn add(totals: &mut Totals, stats: &SpeedStats) {
        let counts: Vec<i32> = stats
            .histogram
            .counts()
            .iter()
            .map(|count| i32::try_from(*count).unwrap())
            .collect();
        totals
            .add(&sums(stats), stats.histogram.lowest_kmh().into(), &counts)
            .unwrap();
    }

    #[test]
    fn without_speeds_there_is_no_mean_and_no_percentile() {
        let mut totals = Totals::default();
        totals
            .add(
                &Sums {
                    n: 3,
                    ..Sums::default()
                },
                0,
                &[],
            )
            .unwrap();
        assert_eq!(totals.sums.n, 3);
        assert_eq!(totals.sums.time_mean_kmh(), None);
        assert_eq!(totals.sums.space_mean_kmh(), None);
        assert_eq!(totals.sums.standard_deviation_kmh(), None);
        assert_eq!(totals.percentile_kmh(50), None);
    }

    #[test]
    fn means_are_rounded_to_hundredths_with_halves_upwards() {
        let mean = |speeds: &[u16]| sums(&stats(speeds)).time_mean_kmh();
        assert_eq!(mean(&[8_520, 8_521]), Some(85.21));
        assert_eq!(mean(&[8_520, 8_520, 8_521]), Some(85.20));
        assert_eq!(mean(&[0]), Some(0.0));
    }

    #[test]
    fn the_space_mean_of_60_and_40_is_48() {
        assert_eq!(sums(&stats(&[6_000, 4_000])).space_mean_kmh(), Some(48.0));
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(
            sums(&stats(&[6_000, 6_200])).standard_deviation_kmh(),
            Some(1.41)
        );
        assert_eq!(sums(&stats(&[6_000])).standard_deviation_kmh(), None);
    }

    #[test]
    fn a_histogram_beyond_the_bins_is_refused() {
        let mut totals = Totals::default();
        assert!(totals.add(&Sums::default(), 400, &[1]).is_ok());
        assert!(totals.add(&Sums::default(), 400, &[1, 1]).is_err());
        assert!(totals.add(&Sums::default(), -1, &[1]).is_err());
        assert!(totals.add(&Sums::default(), 50, &[-1]).is_err());
    }

    #[test]
    fn years_of_full_windows_do_not_overflow() {
        let window = Sums {
            n: 1 << 20,
            n_speed: 1 << 20,
            n_moving: 1 << 20,
            sum_ckmh: 40_000 << 20,
            sumsq_ckmh2: 1_600_000_000 << 20,
            pace_sum_ms_per_km: 9_000 << 20,
            seen: Speed::from_centi_kmh(40_000).map(|speed| (speed, speed)),
            ..Sums::default()
        };
        let mut totals = Totals::default();
        for _ in 0..10 * 365 * 288 {
            totals.add(&window, 400, &[1 << 20]).unwrap();
        }
        assert_eq!(totals.sums.time_mean_kmh(), Some(400.0));
        assert_eq!(totals.sums.space_mean_kmh(), Some(400.0));
        assert_eq!(totals.sums.standard_deviation_kmh(), Some(0.0));
        assert_eq!(totals.percentile_kmh(85), Some(400.0));
    }

    proptest! {
        #[test]
        fn totals_of_parts_equal_the_statistics_of_the_whole(
            speeds in prop::collection::vec(0u16..=40_000, 1..200),
            cut in 0usize..200,
            percent in 0u8..=100,
        ) {
            let (left, right) = speeds.split_at(cut.min(speeds.len()));
            let mut totals = Totals::default();
            for part in [left, right].into_iter().filter(|part| !part.is_empty()) {
                add(&mut totals, &stats(part));
            }
            let whole = stats(&speeds);
            let mut dropped = Totals::default();
            if !right.is_empty() {
                add(&mut dropped, &stats(right));
            }
            if !left.is_empty() {
                let left = stats(left);
                let rest = totals.without(&dropped, sums(&left));
                let exact = left.percentile(percent).map(Speed::kmh);
                prop_assert_eq!(rest.percentile_kmh(percent), exact);
            }
            prop_assert_eq!(totals.sums, sums(&whole));
            prop_assert_eq!(totals.percentile_kmh(percent), whole.percentile(percent).map(Speed::kmh));
            let exact = whole.time_mean_kmh().unwrap();
            prop_assert!((totals.sums.time_mean_kmh().unwrap() - exact).abs() <= 0.005_000_1);
        }
    }
}
