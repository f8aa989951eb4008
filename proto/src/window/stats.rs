//! What is known of the speeds of some passages, in whole numbers only.
//!
//! Sums merge in any order to the same bits; means, deviation and percentiles are derived from them
//! when somebody asks.

use serde::{Deserialize, Serialize};

use crate::limits::{CLASSES, LANES, WINDOW_PASSAGES_MAX};
use crate::passage::Speed;

/// Bins of the histogram: 1 km/h each, the last one open (it holds 400.00 km/h).
pub const BINS: usize = 401;

/// From this speed on a passage has a pace: 1 km/h. Below, its time per km would drown the others.
pub(super) const MOVING_CENTI_KMH: u16 = 100;

/// Milliseconds that a kilometre takes at 0.01 km/h.
pub(super) const MS_PER_KM_AT_ONE_CENTI_KMH: u32 = 360_000_000;

/// Speeds in bins of 1 km/h, trimmed to the bins in use, so that equal histograms are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    lowest_kmh: u16,
    counts: Vec<u32>,
}

impl Histogram {
    /// From the lowest bin in use and the counts from there on, as the database keeps them.
    /// None when they are not trimmed or reach beyond the last bin.
    #[must_use]
    pub fn from_parts(lowest_kmh: u16, counts: Vec<u32>) -> Option<Self> {
        let trimmed = match (counts.first(), counts.last()) {
            (Some(first), Some(last)) => *first > 0 && *last > 0,
            _ => lowest_kmh == 0,
        };
        let inside = usize::from(lowest_kmh) + counts.len() <= BINS;
        (trimmed && inside).then_some(Self { lowest_kmh, counts })
    }

    pub(super) fn from_dense(dense: &[u32; BINS]) -> Self {
        let used = |count: &u32| *count > 0;
        match (dense.iter().position(used), dense.iter().rposition(used)) {
            (Some(low), Some(high)) => Self {
                lowest_kmh: u16::try_from(low).unwrap_or(0),
                counts: dense[low..=high].to_vec(),
            },
            _ => Self::default(),
        }
    }

    /// The lowest bin in use, in km/h; 0 when there is none.
    #[must_use]
    pub const fn lowest_kmh(&self) -> u16 {
        self.lowest_kmh
    }

    /// The counts from the lowest to the highest bin in use.
    #[must_use]
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.clone_from(other);
            return;
        }
        let low = self.lowest_kmh.min(other.lowest_kmh);
        let end = |h: &Self| usize::from(h.lowest_kmh) + h.counts.len();
        let len = end(self).max(end(other)) - usize::from(low);
        if low < self.lowest_kmh {
            let shift = usize::from(self.lowest_kmh - low);
            self.counts.splice(0..0, std::iter::repeat_n(0, shift));
            self.lowest_kmh = low;
        }
        self.counts.resize(len, 0);
        let at = usize::from(other.lowest_kmh - low);
        self.counts[at..]
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(sum, more)| *sum += more);
    }
}

/// Statistics of some passages. Deltas and absolute values have the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedStats {
    /// Passages.
    pub n: u32,
    /// Passages with a speed.
    pub n_speed: u32,
    /// Passages of at least 1 km/h, those that have a pace.
    pub n_moving: u32,
    /// Passages reported as violations.
    pub violations: u32,
    /// Sum of the speeds, 0.01 km/h.
    pub sum_ckmh: u64,
    /// Sum of the squares of the speeds, (0.01 km/h)².
    pub sumsq_ckmh2: u64,
    /// Sum of the paces, whole milliseconds per km.
    pub pace_sum_ms_per_km: u64,
    /// The lowest speed.
    pub min: Option<Speed>,
    /// The highest speed.
    pub max: Option<Speed>,
    /// The speeds in bins of 1 km/h.
    pub histogram: Histogram,
    /// Passages by class; those without a class are in `n` only.
    pub class_n: [u32; CLASSES],
    /// Passages by lane; those without a lane are in `n` only.
    pub lane_n: [u32; LANES],
    /// Passages with a speed, by lane.
    pub lane_n_speed: [u32; LANES],
    /// Sum of the speeds by lane, 0.01 km/h.
    pub lane_sum_ckmh: [u64; LANES],
}

/// Statistics that contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatsError {
    /// No passage, or more than a window may hold.
    #[error("window counts {0} passages, allowed are 1 to {WINDOW_PASSAGES_MAX}")]
    Count(u32),
    /// A part is larger than the whole.
    #[error("window's {0} do not add up")]
    Inconsistent(&'static str),
    /// A window outside the years 1970 to 9999.
    #[error("window with index {0} is outside the years 1970 to 9999")]
    Time(i64),
}

impl SpeedStats {
    /// Adds the statistics of other passages. The caller keeps `n` within bounds
    /// ([`WINDOW_PASSAGES_MAX`] per 5 minutes): then no sum overflows, not even over a day.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.n_speed += other.n_speed;
        self.n_moving += other.n_moving;
        self.violations += other.violations;
        self.sum_ckmh += other.sum_ckmh;
        self.sumsq_ckmh2 += other.sumsq_ckmh2;
        self.pace_sum_ms_per_km += other.pace_sum_ms_per_km;
        self.min = self.min.into_iter().chain(other.min).min();
        self.max = self.max.into_iter().chain(other.max).max();
        self.histogram.merge(&other.histogram);
        add(&mut self.class_n, &other.class_n);
        add(&mut self.lane_n, &other.lane_n);
        add(&mut self.lane_n_speed, &other.lane_n_speed);
        add(&mut self.lane_sum_ckmh, &other.lane_sum_ckmh);
    }

    /// Whether these could be the statistics of real passages of one 5-minute window.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn check(&self) -> Result<(), StatsError> {
        if self.n == 0 || self.n > WINDOW_PASSAGES_MAX {
            return Err(StatsError::Count(self.n));
        }
        let sum = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        let histogram =
            Histogram::from_parts(self.histogram.lowest_kmh, self.histogram.counts.clone())
                .is_some_and(|trimmed| trimmed.total() == u64::from(self.n_speed));
        let n_speed = u64::from(self.n_speed);
        let (min, max) = (self.min.map_or(0, to_u64), self.max.map_or(0, to_u64));
        let bins = self.histogram.counts.len() as u64;
        let lowest = u64::from(self.histogram.lowest_kmh);
        let lanes_add_up = (0..LANES).all(|lane| {
            let n = u64::from(self.lane_n_speed[lane]);
            self.lane_n_speed[lane] <= self.lane_n[lane]
                && (n * min..=n * max).contains(&self.lane_sum_ckmh[lane])
        });
        let moving_paces = u64::from(self.n_moving) * pace_range_max();
        let rules = [
            (
                "speeds",
                self.n_speed <= self.n && self.n_moving <= self.n_speed,
            ),
            ("violations", self.violations <= self.n),
            ("histogram", histogram),
            (
                "extremes",
                self.min.is_some() == (n_speed > 0) && self.max.is_some() == (n_speed > 0),
            ),
            (
                "extremes",
                n_speed == 0
                    || (min <= max && min / 100 == lowest && max / 100 + 1 == lowest + bins),
            ),
            (
                "sums",
                (n_speed * min..=n_speed * max).contains(&self.sum_ckmh),
            ),
            (
                "sums",
                (n_speed * min * min..=n_speed * max * max).contains(&self.sumsq_ckmh2),
            ),
            ("paces", self.pace_sum_ms_per_km <= moving_paces),
            (
                "paces",
                self.pace_sum_ms_per_km >= u64::from(self.n_moving) * PACE_MIN_MS_PER_KM,
            ),
            ("classes", sum(&self.class_n) <= u64::from(self.n)),
            ("lanes", sum(&self.lane_n) <= u64::from(self.n)),
            ("lanes", sum(&self.lane_n_speed) <= n_speed && lanes_add_up),
        ];
        match rules.into_iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(StatsError::Inconsistent(what)),
            None => Ok(()),
        }
    }

    /// Time-mean speed in km/h: the arithmetic mean.
    #[must_use]
    pub fn time_mean_kmh(&self) -> Option<f64> {
        (self.n_speed > 0).then(|| as_f64(self.sum_ckmh) / f64::from(self.n_speed) / 100.0)
    }

    /// Space-mean speed in km/h: the harmonic mean of those that move.
    #[must_use]
    pub fn space_mean_kmh(&self) -> Option<f64> {
        (self.n_moving > 0)
            .then(|| f64::from(self.n_moving) * 3_600_000.0 / as_f64(self.pace_sum_ms_per_km))
    }

    /// Sample standard deviation of the speeds in km/h; none below two speeds.
    #[must_use]
    pub fn standard_deviation_kmh(&self) -> Option<f64> {
        let n = u128::from(self.n_speed);
        if n < 2 {
            return None;
        }
        let sum = u128::from(self.sum_ckmh);
        let spread = n * u128::from(self.sumsq_ckmh2) - sum * sum;
        #[expect(
            clippy::cast_precision_loss,
            reason = "the last step of an exact computation"
        )]
        let variance = spread as f64 / (n * (n - 1)) as f64;
        Some(variance.sqrt() / 100.0)
    }

    /// The speed that `percent` of the vehicles do not exceed, interpolated within its bin of
    /// 1 km/h and never outside the speeds that were seen.
    #[must_use]
    pub fn percentile(&self, percent: u8) -> Option<Speed> {
        let seen = self.min.zip(self.max)?;
        let first = usize::from(self.histogram.lowest_kmh);
        let bins = (first..).zip(self.histogram.counts.iter().map(|count| u64::from(*count)));
        Some(percentile(bins, u64::from(self.n_speed), percent, seen))
    }
}

/// The speed that `percent` of `total` vehicles do not exceed, for any sum of histograms: `bins`
/// are km/h and count by ascending speed, `seen` the lowest and the highest speed among them.
/// Interpolated within its bin of 1 km/h and never outside what was seen.
pub fn percentile(
    bins: impl IntoIterator<Item = (usize, u64)>,
    total: u64,
    percent: u8,
    (min, max): (Speed, Speed),
) -> Speed {
    // In units of a hundredth of a vehicle, so that all stays whole.
    let wanted = total * u64::from(percent.min(100));
    let mut below = 0;
    for (kmh, count) in bins {
        let within = count * 100;
        if within > 0 && below + within >= wanted {
            let centi = kmh as u64 * 100 + (wanted - below) * 100 / within;
            let centi = u16::try_from(centi).unwrap_or(u16::MAX);
            let centi = centi.clamp(min.centi_kmh(), max.centi_kmh());
            return Speed::from_centi_kmh(centi).unwrap_or(max);
        }
        below += within;
    }
    max
}

const PACE_MIN_MS_PER_KM: u64 = 9_000;

const fn pace_range_max() -> u64 {
    (MS_PER_KM_AT_ONE_CENTI_KMH / MOVING_CENTI_KMH as u32) as u64
}

fn to_u64(speed: Speed) -> u64 {
    u64::from(speed.centi_kmh())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "means are reported with a few digits"
)]
const fn as_f64(sum: u64) -> f64 {
    sum as f64
}

fn add<T: Copy + std::ops::AddAssign, const N: usize>(sums: &mut [T; N], more: &[T; N]) {
    sums.iter_mut()
        .zip(more)
        .for_each(|(sum, more)| *sum += *more);
}
