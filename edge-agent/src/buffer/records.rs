//! What the store remembers beside the passages, as postcard.
//!
//! Pure.

use proto::limits::{CURSOR_RANGES_MAX, RANGES_MAX};
use proto::ranges::{SeqRange, SeqSet};
use proto::receipt::StreamReceipt;
use proto::summary::SummaryEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The layout of this store, and the only one that is read: a store with a higher number belongs to a
/// newer agent, one with a lower number to an agent that was never released.
pub(super) const FORMAT: u32 = 3;

/// The marks of one stream; durable with every commit that moves one of them. In memory what receipts
/// said has up to [`CURSOR_RANGES_MAX`] ranges a set; what the disk does not keep of it is sent and
/// answered again after a start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    /// The run that began the stream: streams are drained and evicted in this order.
    pub(super) run: u32,
    /// The last number given to a passage.
    pub(super) accepted_to: u64,
    /// Numbers that a frame may have contained.
    pub(super) offered: SeqSet,
    /// What receipts said is in the windows.
    pub(super) counted: SeqSet,
    /// What receipts said is in the database.
    pub(super) stored: SeqSet,
    /// What receipts said is booked as lost.
    pub(super) lost: SeqSet,
}

impl Marks {
    /// Numbers that the centre asks nothing more about.
    pub(super) fn settled(&self) -> SeqSet {
        self.stored.union(&self.lost)
    }

    /// Numbers that a frame may have contained and that are not settled.
    pub(super) fn pending_offers(&self) -> SeqSet {
        self.offered.difference(&self.settled())
    }

    /// Marks numbers as offered; to call more numbers offered than were is safe.
    pub(super) fn offer(&mut self, range: SeqRange) {
        insert_bounded(&mut self.offered, range);
    }

    /// Takes over a cursor. Within one timeline cursors only grow, so an older receipt that comes
    /// late takes nothing back; numbers that were never given are not believed, and those that are
    /// offered `again` are not lost.
    ///
    /// Returns whether anything changed.
    pub(super) fn take_over(&mut self, receipt: &StreamReceipt, again: &SeqSet) -> bool {
        let given: SeqSet = SeqRange::from_count(proto::Seq::FIRST, self.accepted_to)
            .map(SeqSet::from)
            .unwrap_or_default();
        let counted = receipt.counted.intersection(&given);
        let stored = receipt.stored.intersection(&counted);
        let lost = receipt.lost.intersection(&given).difference(again);
        let before = (self.counted.clone(), self.stored.clone(), self.lost.clone());
        self.counted = grown(&self.counted, counted);
        self.stored = grown(&self.stored, stored);
        // A number that was counted after all is no longer lost.
        self.lost = grown(&self.lost, lost).difference(&self.counted);
        before != (self.counted.clone(), self.stored.clone(), self.lost.clone())
    }

    /// As they are written: no more than a value of the store holds.
    pub(super) fn to_value(&self) -> Vec<u8> {
        let counted = self.counted.widest(RANGES_MAX);
        to_bytes(&Self {
            stored: self.stored.intersection(&counted).widest(RANGES_MAX),
            lost: self.lost.widest(RANGES_MAX),
            offered: self.offered.clone(),
            counted,
            ..*self
        })
    }

    /// Forgets what receipts said of these numbers: the centre may have, too.
    pub(super) fn forget_receipts(&mut self, of: &SeqSet) {
        for said in [&mut self.counted, &mut self.stored, &mut self.lost] {
            *said = said.difference(of);
        }
    }
}

/// Inserts; a set of too many ranges gives up its narrowest gap.
fn insert_bounded(set: &mut SeqSet, range: SeqRange) {
    set.insert(range);
    while set.range_count() > RANGES_MAX {
        let gap = set
            .ranges()
            .windows(2)
            .filter_map(|pair| SeqRange::new(pair[0].last(), pair[1].first()))
            .min_by_key(|gap| gap.count());
        match gap {
            Some(gap) => set.insert(gap),
            None => return,
        }
    }
}

/// The union, unless it has more ranges than any cursor: then the newer set alone.
fn grown(old: &SeqSet, new: SeqSet) -> SeqSet {
    let union = old.union(&new);
    if union.range_count() <= CURSOR_RANGES_MAX {
        union
    } else {
        new
    }
}

/// A summary entry on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredEntry {
    /// Once offered it never changes.
    pub(super) sealed: bool,
    pub(super) entry: SummaryEntry,
}

/// Which builds of the centre refused which numbers of a stream for ever; the latest come last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusals(Vec<(BuildKey, SeqSet)>);

/// A build's name, hashed.
pub(super) type BuildKey = [u8; 8];

/// Builds that are remembered per stream. One that was forgotten is asked once more.
const BUILDS_MAX: usize = 3;

impl Refusals {
    /// The build refused these.
    pub(super) fn add(&mut self, build: BuildKey, range: SeqRange) {
        let known = self.0.iter().position(|(known, _)| *known == build);
        let mut refused = known.map_or_else(SeqSet::new, |at| self.0.remove(at).1);
        insert_bounded(&mut refused, range);
        if self.0.len() >= BUILDS_MAX {
            self.0.remove(0);
        }
        self.0.push((build, refused));
    }

    /// Whether the build refused all of these.
    pub(super) fn contains(&self, build: BuildKey, range: SeqRange) -> bool {
        let mut known = self.0.iter();
        known.any(|(known, refused)| *known == build && refused.contains_range(range))
    }
}

pub(super) fn to_bytes(record: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(record).unwrap_or_default()
}

pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proto::{Seq, StreamId};

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

    fn receipt(
        counted: &[(u64, u64)],
        stored: &[(u64, u64)],
        lost: &[(u64, u64)],
    ) -> StreamReceipt {
        StreamReceipt {
            stream: StreamId::from_bytes([1; 16]),
            counted: set(counted),
            stored: set(stored),
            lost: set(lost),
            afresh: false,
        }
    }

    #[test]
    fn an_older_receipt_takes_nothing_back() {
        let mut marks = Marks {
            accepted_to: 100,
            ..Marks::default()
        };
        assert!(marks.take_over(&receipt(&[(1, 80)], &[(1, 80)], &[]), &SeqSet::new()));
        assert!(!marks.take_over(&receipt(&[(1, 40)], &[(1, 40)], &[]), &SeqSet::new()));
        assert_eq!(marks.stored, set(&[(1, 80)]));
    }

    #[test]
    fn numbers_that_were_never_given_are_not_believed() {
        let mut marks = Marks {
            accepted_to: 10,
            ..Marks::default()
        };
        marks.take_over(&receipt(&[(1, 20)], &[(5, 30)], &[(9, 40)]), &SeqSet::new());
        assert_eq!(marks.counted, set(&[(1, 10)]));
        assert_eq!(marks.stored, set(&[(5, 10)]));
        assert!(marks.lost.is_empty(), "counted and lost share no number");
    }

    #[test]
    fn the_offered_set_stays_within_its_ranges_by_covering_more() {
        let mut marks = Marks::default();
        for n in 0..200_u64 {
            marks.offer(range(1 + n * 10, 2 + n * 10));
        }
        assert_eq!(marks.offered.range_count(), RANGES_MAX);
        assert!((0..200_u64).all(|n| marks.offered.contains_range(range(1 + n * 10, 2 + n * 10))));
    }

    #[test]
    fn refusals_of_the_latest_builds_are_remembered_within_the_size_of_a_value() {
        let mut refusals = Refusals::default();
        let high = proto::limits::SEQ_MAX - 100_000;
        for build in 1..=4_u8 {
            for n in 0..200 {
                refusals.add([build; 8], range(high + n * 10, high + n * 10));
            }
        }
        let asked = range(high + 10, high + 10);
        let known = [1, 2, 3, 4].map(|build| refusals.contains([build; 8], asked));
        assert_eq!(known, [false, true, true, true]);
        assert!(to_bytes(&refusals).len() < crate::buffer::chunk::VALUE_BYTES_MAX);
    }

    #[test]
    fn records_are_read_back() {
        let marks = Marks {
            run: 7,
            accepted_to: 9,
            offered: set(&[(1, 9)]),
            counted: set(&[(1, 3)]),
            ..Marks::default()
        };
        assert_eq!(from_bytes::<Marks>(&to_bytes(&marks)), Ok(marks));
    }
}
