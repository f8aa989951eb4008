//! Sets of sequence numbers as sorted, disjoint, non-adjacent ranges.
//!
//! The language of receipts, cursors and losses. One set of numbers has exactly one form, so equal
//! sets are equal values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{RANGES_MAX, SEQ_MAX};

/// The place of a passage in its stream: 1, 2, 3 …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seq(u64);

/// A number outside 1 to 2⁶³ − 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sequence number {0} is outside 1 to {SEQ_MAX}")]
pub struct SeqError(u64);

impl Seq {
    /// The first number of every stream.
    pub const FIRST: Self = Self(1);

    /// Checks a number.
    ///
    /// # Errors
    /// When it is 0 or above 2⁶³ − 2.
    pub const fn new(number: u64) -> Result<Self, SeqError> {
        if 1 <= number && number <= SEQ_MAX {
            Ok(Self(number))
        } else {
            Err(SeqError(number))
        }
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number that comes after; none after the last.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        if self.0 < SEQ_MAX {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }
}

impl TryFrom<u64> for Seq {
    type Error = SeqError;
    fn try_from(number: u64) -> Result<Self, SeqError> {
        Self::new(number)
    }
}

impl From<Seq> for u64 {
    fn from(seq: Seq) -> Self {
        seq.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All numbers from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(Seq, u64)", into = "(Seq, u64)")]
pub struct SeqRange {
    first: Seq,
    last: Seq,
}

/// A range that ends before it begins, or beyond the last number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sequence range of {count} numbers from {first} is empty or too long")]
pub struct SeqRangeError {
    first: Seq,
    count: u64,
}

impl SeqRange {
    /// From its ends; none when `last` lies before `first`.
    #[must_use]
    pub fn new(first: Seq, last: Seq) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// From its first number and how many there are.
    ///
    /// # Errors
    /// When `count` is 0 or the range would leave the numbers.
    pub fn from_count(first: Seq, count: u64) -> Result<Self, SeqRangeError> {
        count
            .checked_sub(1)
            .and_then(|more| first.0.checked_add(more))
            .and_then(|last| Seq::new(last).ok())
            .map(|last| Self { first, last })
            .ok_or(SeqRangeError { first, count })
    }

    /// The least number.
    #[must_use]
    pub const fn first(self) -> Seq {
        self.first
    }

    /// The greatest number.
    #[must_use]
    pub const fn last(self) -> Seq {
        self.last
    }

    /// How many numbers; never 0.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Whether the number lies inside.
    #[must_use]
    pub fn contains(self, seq: Seq) -> bool {
        self.first <= seq && seq <= self.last
    }

    /// Whether they share a number.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// From the least number of either to the greatest.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }

    /// The numbers in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }
}

impl From<Seq> for SeqRange {
    fn from(seq: Seq) -> Self {
        Self {
            first: seq,
            last: seq,
        }
    }
}

impl TryFrom<(Seq, u64)> for SeqRange {
    type Error = SeqRangeError;
    fn try_from((first, more): (Seq, u64)) -> Result<Self, SeqRangeError> {
        Self::from_count(first, more.saturating_add(1))
    }
}

impl From<SeqRange> for (Seq, u64) {
    fn from(range: SeqRange) -> Self {
        (range.first, range.count() - 1)
    }
}

impl fmt::Debug for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

impl fmt::Display for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

/// A set of sequence numbers.
///
/// On the wire at most [`RANGES_MAX`] ranges; in memory its owner keeps it there by looking at
/// [`SeqSet::range_count`] before it takes a change over.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct SeqSet {
    ranges: Vec<SeqRange>,
}

/// A set from the wire that is not in its one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeqSetError {
    /// More ranges than anybody may send.
    #[error("sequence set has {0} ranges, the limit is {RANGES_MAX}")]
    TooManyRanges(usize),
    /// Ranges out of order, touching, or beyond the last number.
    #[error("sequence set has a range that is out of order or out of bounds at place {0}")]
    Malformed(usize),
}

impl SeqSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The ranges in ascending order.
    #[must_use]
    pub fn ranges(&self) -> &[SeqRange] {
        &self.ranges
    }

    /// How many ranges, the cost of the set.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.count()).sum()
    }

    /// Whether there is no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The greatest number.
    #[must_use]
    pub fn last(&self) -> Option<Seq> {
        self.ranges.last().map(|range| range.last)
    }

    /// How far the set reaches from 1 without a gap: 0 when 1 is not in it.
    #[must_use]
    pub fn contiguous_to(&self) -> u64 {
        self.ranges
            .first()
            .filter(|range| range.first == Seq::FIRST)
            .map_or(0, |r| r.last.get())
    }

    /// Whether the number is in it.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        let place = self.ranges.partition_point(|range| range.last < seq);
        self.ranges
            .get(place)
            .is_some_and(|range| range.contains(seq))
    }

    /// Whether the whole range is in it.
    #[must_use]
    pub fn contains_range(&self, wanted: SeqRange) -> bool {
        let place = self
            .ranges
            .partition_point(|range| range.last < wanted.first);
        self.ranges
            .get(place)
            .is_some_and(|range| range.first <= wanted.first && wanted.last <= range.last)
    }

    /// Whether it shares a number with the range.
    #[must_use]
    pub fn overlaps_range(&self, wanted: SeqRange) -> bool {
        let place = self
            .ranges
            .partition_point(|range| range.last < wanted.first);
        self.ranges
            .get(place)
            .is_some_and(|range| range.overlaps(wanted))
    }

    /// 1 to `last`; none for 0. What lies beyond the last number there is does not count.
    #[must_use]
    pub fn up_to(last: u64) -> Self {
        SeqRange::from_count(Seq::FIRST, last.min(SEQ_MAX)).map_or_else(|_| Self::new(), Self::from)
    }

    /// These numbers and, where they are more ranges than `ranges_max`, those of their narrowest gaps.
    #[must_use]
    pub fn cover(&self, ranges_max: usize) -> Self {
        let mut gaps: Vec<SeqRange> = self
            .ranges
            .windows(2)
            .filter_map(|pair| SeqRange::new(pair[0].last, pair[1].first))
            .collect();
        let surplus = self.range_count().saturating_sub(ranges_max.max(1));
        gaps.sort_unstable_by_key(|gap| gap.count());
        let mut cover = self.clone();
        gaps.into_iter()
            .take(surplus)
            .for_each(|gap| cover.insert(gap));
        cover
    }

    /// As many ranges as a message may have: first those that share a number with `about`, from the
    /// least on; then those that follow; then those before.
    #[must_use]
    pub fn excerpt(&self, about: &Self, ranges_max: usize) -> Self {
        if self.range_count() <= ranges_max {
            return self.clone();
        }
        let from = about.ranges.first().map_or(0, |first| {
            self.ranges
                .partition_point(|range| range.last < first.first)
        });
        let (before, behind) = self.ranges.split_at(from);
        let (named, others): (Vec<SeqRange>, Vec<SeqRange>) = behind
            .iter()
            .copied()
            .partition(|range| about.overlaps_range(*range));
        let order = named
            .into_iter()
            .chain(others)
            .chain(before.iter().rev().copied());
        order.take(ranges_max).collect()
    }

    /// The widest of its ranges, as many as a message may have.
    #[must_use]
    pub fn widest(&self, ranges_max: usize) -> Self {
        if self.range_count() <= ranges_max {
            return self.clone();
        }
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable_by_key(|range| std::cmp::Reverse(range.count()));
        ranges.into_iter().take(ranges_max).collect()
    }

    /// Adds a range.
    pub fn insert(&mut self, added: SeqRange) {
        // Everything from `from` to `to` touches the new range and melts into it.
        let from = self
            .ranges
            .partition_point(|r| r.last.get() + 1 < added.first.get());
        let to = self
            .ranges
            .partition_point(|r| r.first.get() <= added.last.get() + 1);
        let mut merged = added;
        if from < to {
            merged.first = merged.first.min(self.ranges[from].first);
            merged.last = merged.last.max(self.ranges[to - 1].last);
        }
        self.ranges.splice(from..to, [merged]);
    }

    /// Takes a range out.
    pub fn remove(&mut self, gone: SeqRange) {
        let from = self.ranges.partition_point(|r| r.last < gone.first);
        let to = self.ranges.partition_point(|r| r.first <= gone.last);
        if from >= to {
            return;
        }
        let left = Seq::new(gone.first.get() - 1)
            .ok()
            .and_then(|before| SeqRange::new(self.ranges[from].first, before));
        let right = gone
            .last
            .next()
            .and_then(|after| SeqRange::new(after, self.ranges[to - 1].last));
        self.ranges.splice(from..to, left.into_iter().chain(right));
    }

    /// All numbers of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (mut all, few) = if self.range_count() < other.range_count() {
            (other.clone(), self)
        } else {
            (self.clone(), other)
        };
        few.ranges.iter().for_each(|range| all.insert(*range));
        all
    }

    /// The numbers that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        other.ranges.iter().for_each(|range| rest.remove(*range));
        rest
    }

    /// The numbers of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// Whether all its numbers are in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.ranges.iter().all(|range| other.contains_range(*range))
    }

    /// Whether they share no number.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        !self.ranges.iter().any(|range| other.overlaps_range(*range))
    }

    /// Every number in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Seq> + '_ {
        self.ranges
            .iter()
            .flat_map(|range| (range.first.get()..=range.last.get()).map(Seq))
    }
}

impl From<SeqRange> for SeqSet {
    fn from(range: SeqRange) -> Self {
        Self {
            ranges: vec![range],
        }
    }
}

impl FromIterator<SeqRange> for SeqSet {
    fn from_iter<I: IntoIterator<Item = SeqRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

/// On the wire: per range the gap since the end of the one before and the count less one.
impl From<SeqSet> for Vec<(u64, u64)> {
    fn from(set: SeqSet) -> Self {
        let mut end = 0;
        set.ranges
            .iter()
            .map(|range| {
                let gap = range.first.get() - end;
                end = range.last.get();
                (gap, range.count() - 1)
            })
            .collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for SeqSet {
    type Error = SeqSetError;
    fn try_from(wire: Vec<(u64, u64)>) -> Result<Self, SeqSetError> {
        if wire.len() > RANGES_MAX {
            return Err(SeqSetError::TooManyRanges(wire.len()));
        }
        let mut ranges = Vec::with_capacity(wire.len());
        let mut end = 0_u64;
        for (place, (gap, more)) in wire.into_iter().enumerate() {
            // A gap of 1 would touch the range before: the same set in another form.
            let least_gap = if place == 0 { 1 } else { 2 };
            let range = end
                .checked_add(gap)
                .filter(|_| gap >= least_gap)
                .and_then(|first| Seq::new(first).ok())
                .and_then(|first| SeqRange::try_from((first, more)).ok())
                .ok_or(SeqSetError::Malformed(place))?;
            end = range.last.get();
            ranges.push(range);
        }
        Ok(Self { ranges })
    }
}

impl fmt::Debug for SeqSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.ranges).finish()
    }
}
