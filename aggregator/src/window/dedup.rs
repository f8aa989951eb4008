//! What of a stream is settled: the cursor, by which every passage is counted exactly once.
//!
//! Invariants, asserted at every change: stored ⊆ counted; counted ∩ lost = ∅; presumed ⊆ lost;
//! rowless ⊆ counted; rowless ∩ stored = ∅; counted ∪ lost ⊆ [1..accepted_to]; no set but `lost`,
//! `presumed` and `rowless` ever shrinks; at most [`CURSOR_RANGES_MAX`] ranges in each.

use proto::limits::CURSOR_RANGES_MAX;
use proto::ranges::{Seq, SeqRange, SeqSet};

/// The cursor of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The stream's number in the raw rows; 0 until it has one.
    pub stream_key: i32,
    /// In a window or in a side table.
    pub counted: SeqSet,
    /// Raw passage in the database as well, or known never to come.
    pub stored: SeqSet,
    /// Booked as lost, and not counted.
    pub lost: SeqSet,
    /// Those of the lost that nobody declared: the unit may yet find and send them, so its receipts
    /// do not call them settled.
    pub presumed: SeqSet,
    /// Those of the counted whose raw rows nobody declared as lost, and that the unit has no longer:
    /// it may yet find and send them, so its receipts do not call them stored.
    pub rowless: SeqSet,
    /// The last number that the stream is known to have accepted.
    pub accepted_to: u64,
    /// How many times the database has written it; 0 when it is not there yet.
    pub rev: i32,
    /// When the centre first heard of the stream, ms since 1970.
    pub since_ms: i64,
}

/// How a range stands to a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// No number of it is counted.
    New,
    /// All its numbers are counted and none is stored: a summary went ahead of it.
    Counted,
    /// All its numbers are counted and stored.
    Settled,
    /// Some are counted or stored and some are not: decide number by number.
    Mixed,
}

/// A change that the cursor may not take: it would consist of too many ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cursor would have {0} ranges, the limit is {CURSOR_RANGES_MAX}: send the gaps first")]
pub struct TooManyRanges(pub usize);

impl Cursor {
    /// How a range stands to what is settled.
    #[must_use]
    pub fn novelty(&self, range: SeqRange) -> Novelty {
        if !self.counted.overlaps_range(range) {
            Novelty::New
        } else if self.stored.contains_range(range) {
            Novelty::Settled
        } else if self.counted.contains_range(range) && !self.stored.overlaps_range(range) {
            Novelty::Counted
        } else {
            Novelty::Mixed
        }
    }

    /// Whether everything that the stream is known to have accepted is counted or lost.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.counted.count() + self.lost.count() == self.accepted_to
    }

    /// Numbers that are neither counted nor lost.
    #[must_use]
    pub fn open(&self) -> SeqSet {
        SeqSet::up_to(self.accepted_to)
            .difference(&self.counted)
            .difference(&self.lost)
    }

    /// Counted numbers whose raw rows are still to come.
    #[must_use]
    pub fn awaited(&self) -> SeqSet {
        self.counted
            .difference(&self.stored)
            .difference(&self.rowless)
    }

    /// Whether there are any.
    #[must_use]
    pub fn awaits_rows(&self) -> bool {
        self.stored.count() + self.rowless.count() < self.counted.count()
    }

    /// Numbers that the unit itself has declared as lost.
    #[must_use]
    pub fn declared(&self) -> SeqSet {
        self.lost.difference(&self.presumed)
    }

    /// This cursor with the numbers counted (and stored, if `stored`); numbers that were lost are
    /// lost no more.
    ///
    /// # Errors
    /// When it would consist of too many ranges; nothing has changed then.
    pub fn count(&self, seqs: &SeqSet, stored: bool) -> Result<Self, TooManyRanges> {
        let mut next = self.clone();
        next.counted = self.counted.union(seqs);
        if stored {
            next.stored = self.stored.union(seqs);
            next.rowless = self.rowless.difference(seqs);
        }
        next.lost = self.lost.difference(seqs);
        next.presumed = self.presumed.difference(seqs);
        next.accept_to(seqs.last().map_or(0, Seq::get));
        next.checked(self)
    }

    /// This cursor with the numbers presumed lost; they must be open.
    ///
    /// # Errors
    /// When it would consist of too many ranges; nothing has changed then.
    pub fn presume_lost(&self, seqs: &SeqSet) -> Result<Self, TooManyRanges> {
        let mut next = self.clone();
        next.lost = self.lost.union(seqs);
        next.presumed = self.presumed.union(seqs);
        next.checked(self)
    }

    /// This cursor with the raw rows of the numbers presumed lost; they must be awaited.
    ///
    /// # Errors
    /// When it would consist of too many ranges; nothing has changed then.
    pub fn presume_rowless(&self, seqs: &SeqSet) -> Result<Self, TooManyRanges> {
        let mut next = self.clone();
        next.rowless = self.rowless.union(seqs);
        next.checked(self)
    }

    /// This cursor with the numbers lost, as the unit declares; they must not be counted.
    ///
    /// # Errors
    /// When it would consist of too many ranges; nothing has changed then.
    pub fn lose(&self, seqs: &SeqSet) -> Result<Self, TooManyRanges> {
        let mut next = self.clone();
        next.lost = self.lost.union(seqs);
        next.presumed = self.presumed.difference(seqs);
        next.accept_to(seqs.last().map_or(0, Seq::get));
        next.checked(self)
    }

    /// This cursor with the raw passages of the numbers settled; they must be counted.
    ///
    /// # Errors
    /// When it would consist of too many ranges; nothing has changed then.
    pub fn store(&self, seqs: &SeqSet) -> Result<Self, TooManyRanges> {
        let mut next = self.clone();
        next.stored = self.stored.union(seqs);
        next.rowless = self.rowless.difference(seqs);
        next.checked(self)
    }

    /// The stream has accepted at least so many. Says whether that is news.
    pub fn accept_to(&mut self, accepted_to: u64) -> bool {
        let news = accepted_to > self.accepted_to;
        self.accepted_to = self.accepted_to.max(accepted_to);
        news
    }

    fn checked(self, before: &Self) -> Result<Self, TooManyRanges> {
        let unstored = [&self.lost, &self.presumed, &self.rowless];
        let sets = [&self.counted, &self.stored].into_iter().chain(unstored);
        let ranges = sets.map(SeqSet::range_count);
        let most = ranges.max().unwrap_or(0);
        if most > CURSOR_RANGES_MAX {
            return Err(TooManyRanges(most));
        }
        assert!(
            self.stored.is_subset(&self.counted),
            "stored is not within counted: {self:?}"
        );
        assert!(
            self.counted.is_disjoint(&self.lost),
            "counted and lost overlap: {self:?}"
        );
        assert!(
            self.presumed.is_subset(&self.lost),
            "presumed is not within lost: {self:?}"
        );
        assert!(
            self.rowless.is_subset(&self.counted) && self.rowless.is_disjoint(&self.stored),
            "rowless is not within counted, or stored: {self:?}"
        );
        let last = self
            .counted
            .last()
            .max(self.lost.last())
            .map_or(0, Seq::get);
        assert!(
            last <= self.accepted_to,
            "settled beyond what was accepted: {self:?}"
        );
        assert!(
            before.counted.is_subset(&self.counted),
            "cursor shrank: {before:?} to {self:?}"
        );
        assert!(
            before.stored.is_subset(&self.stored),
            "cursor shrank: {before:?} to {self:?}"
        );
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> SeqRange {
        SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
    }

    fn set(ranges: &[(u64, u64)]) -> SeqSet {
        ranges
            .iter()
            .map(|(first, last)| range(*first, *last))
            .collect()
    }

    #[test]
    fn a_range_is_new_settled_or_mixed() {
        let cursor = Cursor::default().count(&set(&[(1, 10)]), true).unwrap();
        let cursor = cursor.count(&set(&[(20, 30)]), false).unwrap();
        for (first, last, novelty) in [
            (11, 19, Novelty::New),
            (31, 40, Novelty::New),
            (1, 10, Novelty::Settled),
            (5, 6, Novelty::Settled),
            (10, 11, Novelty::Mixed),
            (20, 30, Novelty::Counted),
            (25, 35, Novelty::Mixed),
        ] {
            assert_eq!(
                cursor.novelty(range(first, last)),
                novelty,
                "{first}..={last}"
            );
        }
    }

    #[test]
    fn a_lost_number_that_arrives_is_lost_no_more() {
        let cursor = Cursor::default().lose(&set(&[(1, 10)])).unwrap();
        assert!(cursor.is_settled());
        let cursor = cursor.count(&set(&[(4, 6)]), true).unwrap();
        assert_eq!(cursor.lost, set(&[(1, 3), (7, 10)]));
        assert!(cursor.is_settled());
    }

    #[test]
    fn what_is_presumed_lost_is_so_until_it_is_declared_or_counted() {
        let mut cursor = Cursor::default();
        cursor.accept_to(10);
        let cursor = cursor.presume_lost(&cursor.open()).unwrap();
        assert!(cursor.is_settled() && cursor.declared().is_empty());
        let cursor = cursor.lose(&set(&[(1, 4)])).unwrap();
        assert_eq!(cursor.declared(), set(&[(1, 4)]));
        let cursor = cursor.count(&set(&[(4, 5)]), true).unwrap();
        assert_eq!(
            (cursor.lost, cursor.presumed),
            (set(&[(1, 3), (6, 10)]), set(&[(6, 10)]))
        );
    }

    #[test]
    fn raw_rows_are_awaited_until_they_are_stored_or_presumed_or_declared_lost() {
        let cursor = Cursor::default().count(&set(&[(1, 10)]), false).unwrap();
        assert!(cursor.awaits_rows() && cursor.awaited() == set(&[(1, 10)]));
        let cursor = cursor.presume_rowless(&set(&[(3, 10)])).unwrap();
        assert_eq!(cursor.awaited(), set(&[(1, 2)]));
        let cursor = cursor.count(&set(&[(1, 4)]), true).unwrap();
        assert!(!cursor.awaits_rows() && cursor.rowless == set(&[(5, 10)]));
        let cursor = cursor.store(&set(&[(5, 6)])).unwrap();
        assert_eq!(
            (cursor.stored, cursor.rowless),
            (set(&[(1, 6)]), set(&[(7, 10)]))
        );
    }

    #[test]
    fn a_cursor_of_too_many_ranges_is_refused() {
        let most = CURSOR_RANGES_MAX as u64;
        let holes: Vec<(u64, u64)> = (0..most).map(|n| (2 * n + 1, 2 * n + 1)).collect();
        let cursor = Cursor::default().count(&set(&holes), true).unwrap();
        let more = set(&[(2 * most + 1, 2 * most + 1)]);
        assert_eq!(
            cursor.count(&more, true),
            Err(TooManyRanges(CURSOR_RANGES_MAX + 1))
        );
        assert!(cursor.count(&set(&[(2, 2)]), true).is_ok());
    }

    #[test]
    #[should_panic(expected = "counted and lost overlap")]
    fn losing_what_is_counted_is_a_broken_invariant() {
        let cursor = Cursor::default().count(&set(&[(1, 2)]), true).unwrap();
        drop(cursor.lose(&set(&[(2, 3)])));
    }
}
