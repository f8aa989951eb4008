//! ● Which version of each window stood at a time, and what can be said of a stretch of time then.
//!
//! Invariants: a window whose version is not kept has no numbers, and neither has a total that would
//! need it; a total that can be put together from shorter windows is.

use std::ops::Range;

use super::{HistogramError, Interval, Totals, WindowRow};

/// One window as it stood at the time in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// The window.
    pub(super) window: WindowRow,
    /// Lower edge of its histogram's first bin, km/h.
    pub(super) lowest_kmh: i64,
    /// Its histogram.
    pub(super) counts: Vec<i32>,
}

/// Windows of one length that had been written by then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Versions {
    /// Those that are kept, by ascending start.
    pub(super) kept: Vec<Version>,
    /// Starts of those that are not: they were partial then, and have changed since.
    pub(super) not_kept: Vec<i64>,
}

impl Versions {
    /// From the versions that stood, and the starts of all windows that had been written, both in any
    /// order.
    pub(super) fn new(mut kept: Vec<Version>, mut written: Vec<i64>) -> Self {
        kept.sort_unstable_by_key(|version| version.window.start_ms);
        written.sort_unstable();
        written.dedup();
        let is_kept = |start: &i64| {
            kept.binary_search_by_key(start, |version| version.window.start_ms)
                .is_ok()
        };
        written.retain(|start| !is_kept(start));
        Self {
            kept,
            not_kept: written,
        }
    }

    /// Adds the windows that are kept to totals.
    ///
    /// # Errors
    /// When one holds what Verst never writes.
    pub(super) fn add_to(&self, totals: &mut Totals) -> Result<(), HistogramError> {
        for version in &self.kept {
            totals.add(&version.window.sums, version.lowest_kmh, &version.counts)?;
        }
        Ok(())
    }

    /// The stretches of time that only shorter windows can tell of.
    pub(super) fn gaps(&self, interval: Interval) -> Vec<Range<i64>> {
        stretches(&self.not_kept, interval)
    }
}

/// The stretches of time of windows that start then, by ascending start; neighbours as one.
pub(super) fn stretches<'a>(
    starts: impl IntoIterator<Item = &'a i64>,
    interval: Interval,
) -> Vec<Range<i64>> {
    let mut stretches: Vec<Range<i64>> = Vec::new();
    for start in starts {
        let end = start + interval.length_ms();
        match stretches.last_mut() {
            Some(stretch) if stretch.end == *start => stretch.end = end,
            _ => stretches.push(*start..end),
        }
    }
    stretches
}

/// The next shorter windows; none below 5 minutes.
pub(super) const fn shorter(interval: Interval) -> Option<Interval> {
    match interval {
        Interval::Day => Some(Interval::Hour),
        Interval::Hour => Some(Interval::FiveMinutes),
        Interval::FiveMinutes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sums;
    use super::*;

    const HOUR_MS: i64 = Interval::Hour.length_ms();

    fn version(start_ms: i64) -> Version {
        let sums = Sums {
            n: 1,
            ..Sums::default()
        };
        Version {
            window: WindowRow {
                start_ms,
                sums,
                p50: None,
                p85: None,
                revised: false,
                revision: 1,
            },
            lowest_kmh: 0,
            counts: Vec::new(),
        }
    }

    #[test]
    fn a_window_that_was_written_and_has_no_version_is_not_kept() {
        let hours = |hours: &[i64]| hours.iter().map(|hour| hour * HOUR_MS).collect::<Vec<_>>();
        let kept = [3, 1].map(|hour| version(hour * HOUR_MS)).to_vec();
        let versions = Versions::new(kept, hours(&[5, 4, 1, 7, 5]));
        assert_eq!(versions.not_kept, hours(&[4, 5, 7]));
        let gaps = versions.gaps(Interval::Hour);
        assert_eq!(gaps, [4 * HOUR_MS..6 * HOUR_MS, 7 * HOUR_MS..8 * HOUR_MS]);
        let mut totals = Totals::default();
        versions.add_to(&mut totals).unwrap();
        assert_eq!(totals.sums.n, 2);
    }
}
