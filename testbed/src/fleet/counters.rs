//! What a fleet counts while it runs, readable at any moment without stopping it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::unit::Counts;

/// Receipt times are kept to the millisecond up to this; longer ones count as this long.
const TIMES_MS_MAX: usize = 60_000;

/// Bytes on the sockets of all units, TLS and everything in it included.
#[derive(Debug, Default)]
pub struct WireBytes {
    /// Written by units.
    pub up: AtomicU64,
    /// Read by units.
    pub down: AtomicU64,
}

/// Counters of a whole fleet. Each only rises, `connected` apart.
#[derive(Debug)]
pub struct Counters {
    /// Passages that units accepted.
    pub posted: AtomicU64,
    /// Of them, those with a receipt.
    pub receipted: AtomicU64,
    /// Of them, those refused for ever.
    pub refused: AtomicU64,
    /// Batches offered, each offer counted.
    pub offered_batches: AtomicU64,
    /// Of them, offered before.
    pub resent_batches: AtomicU64,
    /// Refusals of any class.
    pub refusals: AtomicU64,
    /// Frames from the centre that could not be read.
    pub unreadable: AtomicU64,
    /// Units that are connected and subscribed now.
    pub connected: AtomicU64,
    /// Units whose road is closed and whose last passages are posted.
    pub closed_roads: AtomicU64,
    /// Connections that were made and subscribed.
    pub connections: AtomicU64,
    /// Attempts and connections that failed.
    pub failed_connections: AtomicU64,
    /// Bytes on the sockets.
    pub wire: WireBytes,
    receipt_times: Vec<AtomicU64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            posted: AtomicU64::default(),
            receipted: AtomicU64::default(),
            refused: AtomicU64::default(),
            offered_batches: AtomicU64::default(),
            resent_batches: AtomicU64::default(),
            refusals: AtomicU64::default(),
            unreadable: AtomicU64::default(),
            connected: AtomicU64::default(),
            closed_roads: AtomicU64::default(),
            connections: AtomicU64::default(),
            failed_connections: AtomicU64::default(),
            wire: WireBytes::default(),
            receipt_times: (0..=TIMES_MS_MAX).map(|_| AtomicU64::default()).collect(),
        }
    }
}

impl Counters {
    /// Adds what changed at one unit between two looks at its counts.
    pub(super) fn add_change(&self, before: &Counts, after: &Counts) {
        let pairs = [
            (&self.posted, before.posted, after.posted),
            (&self.receipted, before.receipted, after.receipted),
            (&self.refused, before.refused, after.refused),
            (
                &self.offered_batches,
                before.offered_batches,
                after.offered_batches,
            ),
            (
                &self.resent_batches,
                before.resent_batches,
                after.resent_batches,
            ),
            (&self.refusals, before.refusals, after.refusals),
            (&self.unreadable, before.unreadable, after.unreadable),
        ];
        for (sum, before, after) in pairs {
            if after != before {
                sum.fetch_add(after - before, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn add_receipt_time(&self, ms: i64) {
        let place = usize::try_from(ms.max(0))
            .unwrap_or(TIMES_MS_MAX)
            .min(TIMES_MS_MAX);
        self.receipt_times[place].fetch_add(1, Ordering::Relaxed);
    }

    /// A copy of the receipt times so far; two of them give the times in between.
    #[must_use]
    pub fn receipt_times(&self) -> ReceiptTimes {
        ReceiptTimes(
            self.receipt_times
                .iter()
                .map(|n| n.load(Ordering::Relaxed))
                .collect(),
        )
    }
}

/// From the post of a passage to the arrival of its receipt at the unit, in milliseconds. The
/// receipt leaves after COMMIT, so this is never less than the time to being readable by SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptTimes(Vec<u64>);

impl ReceiptTimes {
    /// Those that came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&earlier.0)
                .map(|(now, then)| now - then)
                .collect(),
        )
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that this share of the passages did not exceed; none without passages.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let count = self.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let place = self.0.iter().position(|n| {
            below += n;
            below >= rank
        });
        place.and_then(|ms| u64::try_from(ms).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let counters = Counters::default();
        assert_eq!(counters.receipt_times().quantile_ms(0.5), None);
        for ms in 1..=100 {
            counters.add_receipt_time(ms);
        }
        let first = counters.receipt_times();
        assert_eq!(first.quantile_ms(0.5), Some(50));
        assert_eq!(first.quantile_ms(0.99), Some(99));
        assert_eq!(first.quantile_ms(1.0), Some(100));
        counters.add_receipt_time(i64::MAX);
        counters.add_receipt_time(-5);
        let later = counters.receipt_times().since(&first);
        assert_eq!((later.count(), later.quantile_ms(0.5)), (2, Some(0)));
        assert_eq!(later.quantile_ms(1.0), Some(60_000));
    }
}
