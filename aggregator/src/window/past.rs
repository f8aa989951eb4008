//! What of a unit belongs to the past, and how often the past has changed. Pure.
//!
//! Windows that start before `to_ms` are the past: traffic as it happens does not touch them. A flush
//! that does, because passages come late, raises `changes`. Whoever has read the past at some
//! `changes` therefore knows it for as long as that number stands: the API keeps it in memory
//! instead of reading 288 windows for each question about a day.
//!
//! The database adds up changes, so that a second writer (`aggregator reprocess`) may count as well.
//!
//! Invariants: `to_ms` never falls, and the owner alone raises it; a window that starts before it changes only together with
//! `changes`, in one transaction.

use proto::window::{BUCKET_MS, Bucket};

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// Windows that start before, ms since 1970, are the past; none before the first passage.
    pub to_ms: Option<i64>,
    /// How many flushes have changed it.
    pub changes: i64,
}

impl Past {
    /// Takes note of the 5-minute windows that one flush changes. The newest and the one before it
    /// stay out of the past: passages come in a little out of order.
    pub fn touched(&mut self, buckets: impl Iterator<Item = Bucket>) {
        let starts = buckets.map(|bucket| bucket.start().as_millis());
        let ends = starts.fold(None, |ends: Option<(i64, i64)>, start| {
            let (oldest, newest) = ends.unwrap_or((start, start));
            Some((oldest.min(start), newest.max(start)))
        });
        let Some((oldest, newest)) = ends else {
            return;
        };
        self.changes += i64::from(Some(oldest) < self.to_ms);
        self.to_ms = self.to_ms.max(Some(newest - BUCKET_MS));
    }

    /// Takes note of a change by another than the owner, who goes by the `to_ms` that it knows.
    pub fn touched_beside(&mut self) {
        self.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(n: i64) -> Bucket {
        Bucket::of(proto::EventTime::from_millis(n * BUCKET_MS))
    }

    #[test]
    fn the_present_moves_the_past_on_without_changing_it() {
        let mut past = Past::default();
        for n in 0..100 {
            past.touched([bucket(n), bucket(n + 1)].into_iter());
        }
        assert_eq!(past.to_ms, Some(99 * BUCKET_MS));
        assert_eq!(past.changes, 0);
        past.touched(std::iter::once(bucket(98)));
        assert_eq!((past.to_ms, past.changes), (Some(99 * BUCKET_MS), 1));
        past.touched(std::iter::empty());
        assert_eq!(past.changes, 1);
    }

    proptest! {
        #[test]
        fn a_copy_of_the_past_is_true_while_changes_stands(
            flushes in prop::collection::vec(prop::collection::btree_set(0..40_i64, 1..4), 1..60),
            read_after in 0..60_usize,
        ) {
            let mut windows = [0_u32; 40];
            let mut past = Past::default();
            let mut copy = None;
            for (place, flush) in flushes.into_iter().enumerate() {
                for n in &flush {
                    windows[usize::try_from(*n).unwrap()] += 1;
                }
                past.touched(flush.into_iter().map(bucket));
                if place == read_after {
                    copy = Some((past, windows));
                }
                if let Some((then, copy)) = copy && then.changes == past.changes {
                    let to = usize::try_from(then.to_ms.unwrap().max(0) / BUCKET_MS).unwrap();
                    prop_assert_eq!(&copy[..to], &windows[..to]);
                }
            }
        }
    }
}
