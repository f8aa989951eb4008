//! Which `event_id`s were accepted lately: what makes a retried POST count once.
//!
//! On the disk: blocks of up to 64 ids in the order of their acceptance; the last block is written
//! again with the batch that accepts its next passage. In memory: a hash table of 6 bytes a slot
//! that says in which block an id may stand; the block itself has the last word, so two ids are
//! never confused. Kept for 24 hours or 2,000,000 ids, whichever is less, whatever becomes of their
//! passages.
//!
//! The hours are those that the agent lives through, not what its wall clock shows: a unit that
//! starts in 1970 and is then told the time would otherwise forget every id at once, and a post that
//! is tried again just then would count twice.
//!
//! Pure: the caller reads and writes the blocks.

use super::EventKey;
use super::id_block::{IdBlock, PassageNumber};

/// Ids that are remembered, at most.
pub(super) const IDS_MAX: usize = 2_000_000;

/// How long an id is remembered.
pub(super) const KEEP_MS: i64 = 24 * 3_600_000;

/// From one look at the clock to the next, ids age by at most this much and never grow younger.
const STEP_MS_MAX: i64 = 600_000;

/// Ids of one block: its value is written once per commit, so it stays near a kilobyte.
pub(super) const BLOCK_IDS: usize = 64;

const EMPTY: u32 = 0;
const SLOTS_MIN: usize = 1_024;

/// The table. Slots are probed linearly; a removal closes its gap.
#[derive(Debug, Clone)]
pub(super) struct EventIds {
    /// Parts of ids, never 0; 0 is an empty slot.
    prints: Vec<u32>,
    /// The low half of the number of each id's block.
    blocks: Vec<u16>,
    len: usize,
    /// See [`IDS_MAX`].
    pub(super) ids_max: usize,
    /// Number of the oldest block that is kept.
    oldest: u32,
    /// Number of the block that is being filled.
    newest: u32,
    /// Blocks that were filled since [`EventIds::take_filled`].
    filled: usize,
    filling: IdBlock,
    /// The time by which ids age, in ms; goes on from what the disk holds.
    age_ms: i64,
    /// What the wall clock showed at the last look.
    seen_ms: Option<i64>,
}

impl EventIds {
    pub(super) fn new() -> Self {
        Self {
            prints: vec![EMPTY; SLOTS_MIN],
            blocks: vec![0; SLOTS_MIN],
            len: 0,
            ids_max: IDS_MAX,
            oldest: 0,
            newest: 0,
            filled: 0,
            filling: IdBlock::default(),
            age_ms: 0,
            seen_ms: None,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a block over from the disk; they come in the order of their numbers.
    pub(super) fn load(&mut self, number: u32, block: IdBlock) {
        if self.len == 0 {
            self.oldest = number;
        }
        for id in block.ids() {
            self.insert(*id, number);
        }
        self.newest = number;
        self.age_ms = self.age_ms.max(block.newest_ms);
        self.filling = block;
    }

    /// What time it is for ids when the wall clock shows `now_ms`.
    pub(super) fn aged_to(&mut self, now_ms: i64) -> i64 {
        let seen_ms = self.seen_ms.replace(now_ms).unwrap_or(now_ms);
        let step_ms = now_ms.saturating_sub(seen_ms).clamp(0, STEP_MS_MAX);
        self.age_ms = self.age_ms.saturating_add(step_ms);
        self.age_ms
    }

    /// The blocks in which the id may stand. The one that is being filled is answered for already.
    pub(super) fn candidates(&self, key: EventKey) -> Vec<u32> {
        let print = print_of(&key.0);
        self.probe(&key.0)
            .take_while(|slot| self.prints[*slot] != EMPTY)
            .filter(|slot| self.prints[*slot] == print)
            .map(|slot| self.full_number(self.blocks[slot]))
            .filter(|number| *number != self.newest)
            .collect()
    }

    /// Whether the id stands in the block that is being filled.
    pub(super) fn is_in_newest(&self, key: EventKey) -> bool {
        self.filling.ids().contains(&key.0)
    }

    /// Remembers the id of a passage. Gives back the block that is full now and must be written, if
    /// any.
    pub(super) fn remember(
        &mut self,
        key: EventKey,
        passage: PassageNumber,
        now_ms: i64,
    ) -> Option<(u32, IdBlock)> {
        self.insert(key.0, self.newest);
        self.filling.push(key.0, passage);
        self.filling.newest_ms = self.aged_to(now_ms);
        (self.filling.ids().len() >= BLOCK_IDS).then(|| {
            let full = (self.newest, std::mem::take(&mut self.filling));
            self.newest = self.newest.wrapping_add(1);
            self.filled += 1;
            full
        })
    }

    /// The block that is being filled, to be written with the batch.
    pub(super) fn unfinished(&self) -> Option<(u32, &IdBlock)> {
        (!self.filling.ids().is_empty()).then_some((self.newest, &self.filling))
    }

    /// The blocks that are kept, oldest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        self.oldest..=self.newest
    }

    /// The oldest full block; the caller looks whether [`EventIds::is_expired`] and drops it.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != self.newest).then_some(self.oldest)
    }

    /// How many blocks were filled since the last call.
    pub(super) fn take_filled(&mut self) -> usize {
        std::mem::take(&mut self.filled)
    }

    /// Whether there are more ids than may be.
    pub(super) fn is_over(&self) -> bool {
        self.len > self.ids_max
    }

    /// Whether the oldest block, whose newest id is from `newest_ms`, may go at `age_ms`.
    pub(super) fn is_expired(&self, newest_ms: i64, age_ms: i64) -> bool {
        self.is_over() || age_ms.saturating_sub(newest_ms) > KEEP_MS
    }

    /// Forgets the oldest block with these ids.
    pub(super) fn forget_oldest(&mut self, ids: &[[u8; 16]]) {
        for id in ids {
            self.remove(id, self.oldest);
        }
        self.oldest = self.oldest.wrapping_add(1);
    }

    /// Less than 2¹⁶ blocks are kept, so the low half is enough.
    fn full_number(&self, low: u16) -> u32 {
        let ahead = low.wrapping_sub(low_half(self.oldest));
        self.oldest.wrapping_add(u32::from(ahead))
    }

    fn insert(&mut self, id: [u8; 16], block: u32) {
        if (self.len + 1) * 4 > self.prints.len() * 3 {
            self.grow();
        }
        let slot = self.probe(&id).find(|slot| self.prints[*slot] == EMPTY);
        if let Some(slot) = slot {
            self.prints[slot] = print_of(&id);
            self.blocks[slot] = low_half(block);
            self.len += 1;
        }
    }

    /// Doubles the table. A slot's home follows from its print, so no id is needed.
    fn grow(&mut self) {
        let slots = self.prints.len() * 2;
        let old = (
            std::mem::replace(&mut self.prints, vec![EMPTY; slots]),
            std::mem::replace(&mut self.blocks, vec![0; slots]),
        );
        for (print, block) in old.0.into_iter().zip(old.1) {
            if print != EMPTY {
                let slot = self
                    .probe_print(print)
                    .find(|slot| self.prints[*slot] == EMPTY);
                if let Some(slot) = slot {
                    self.prints[slot] = print;
                    self.blocks[slot] = block;
                }
            }
        }
    }

    fn remove(&mut self, id: &[u8; 16], block: u32) {
        let print = print_of(id);
        let mask = self.prints.len() - 1;
        let found = self
            .probe(id)
            .take_while(|slot| self.prints[*slot] != EMPTY)
            .find(|slot| self.prints[*slot] == print && self.blocks[*slot] == low_half(block));
        let Some(mut gap) = found else { return };
        self.len -= 1;
        let mut slot = gap;
        loop {
            slot = (slot + 1) & mask;
            if self.prints[slot] == EMPTY {
                break;
            }
            let home = home_of(self.prints[slot], mask);
            // Whoever's home is not between the gap and itself may move into the gap.
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(gap) & mask) {
                self.prints[gap] = self.prints[slot];
                self.blocks[gap] = self.blocks[slot];
                gap = slot;
            }
        }
        self.prints[gap] = EMPTY;
    }

    fn probe(&self, id: &[u8; 16]) -> impl Iterator<Item = usize> + use<> {
        self.probe_print(print_of(id))
    }

    fn probe_print(&self, print: u32) -> impl Iterator<Item = usize> + use<> {
        let mask = self.prints.len() - 1;
        let home = home_of(print, mask);
        (0..=mask).map(move |step| (home + step) & mask)
    }
}

/// 32 bits of the id, never 0.
fn print_of(id: &[u8; 16]) -> u32 {
    u32::from_le_bytes([id[0], id[1], id[2], id[3]]).max(1)
}

fn home_of(print: u32, mask: usize) -> usize {
    // The prints are bits of a cryptographic hash: evenly spread as they are.
    print as usize & mask
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is wanted"
)]
const fn low_half(number: u32) -> u16 {
    number as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PASSAGE: PassageNumber = (proto::StreamId::from_bytes([1; 16]), 1);

    fn key(n: u64) -> EventKey {
        // Every fourth id shares its print with three others, so that candidates are ambiguous.
        let mut id = [0; 16];
        id[..4].copy_from_slice(&u32::try_from(n / 4 * 2_654_435).unwrap_or(7).to_le_bytes());
        id[8..].copy_from_slice(&n.to_be_bytes());
        EventKey(id)
    }

    /// The table with the disk under it.
    struct Shelf {
        ids: EventIds,
        disk: BTreeMap<u32, IdBlock>,
    }

    impl Shelf {
        fn knows(&self, key: EventKey) -> bool {
            self.ids.is_in_newest(key)
                || self
                    .ids
                    .candidates(key)
                    .iter()
                    .any(|n| self.disk[n].ids().contains(&key.0))
        }

        fn remember(&mut self, key: EventKey, now_ms: i64) {
            if let Some((number, block)) = self.ids.remember(key, PASSAGE, now_ms) {
                self.disk.insert(number, block);
            }
        }

        fn forget_oldest(&mut self) {
            let number = self.ids.oldest().unwrap();
            let block = self.disk.remove(&number).unwrap();
            self.ids.forget_oldest(block.ids());
        }
    }

    #[test]
    fn ids_are_known_until_their_block_is_forgotten_and_not_longer() {
        let mut shelf = Shelf {
            ids: EventIds::new(),
            disk: BTreeMap::new(),
        };
        for n in 0..5_000 {
            assert!(!shelf.knows(key(n)));
            shelf.remember(key(n), 0);
        }
        assert!((0..5_000).all(|n| shelf.knows(key(n))));
        for forgotten in 1..=40 {
            shelf.forget_oldest();
            let border = forgotten * 64;
            assert!(
                (0..border).all(|n| !shelf.knows(key(n))),
                "after {forgotten} blocks"
            );
            assert!(
                (border..5_000).all(|n| shelf.knows(key(n))),
                "after {forgotten} blocks"
            );
        }
        assert_eq!(shelf.ids.len(), 5_000 - 40 * 64);
    }

    #[test]
    fn the_table_is_the_same_after_a_restart() {
        let mut shelf = Shelf {
            ids: EventIds::new(),
            disk: BTreeMap::new(),
        };
        (0..200).for_each(|n| shelf.remember(key(n), 5));
        shelf.forget_oldest();
        let (number, block) = shelf.ids.unfinished().unwrap();
        let mut disk = shelf.disk.clone();
        disk.insert(number, block.clone());
        let mut ids = EventIds::new();
        disk.iter()
            .for_each(|(number, block)| ids.load(*number, block.clone()));
        let again = Shelf { ids, disk };
        assert!((64..200).all(|n| again.knows(key(n))));
        assert!((0..64).all(|n| !again.knows(key(n))));
        assert_eq!(again.ids.oldest(), Some(1));
    }

    #[test]
    fn ids_expire_by_age_and_by_number() {
        let mut ids = EventIds::new();
        ids.remember(key(1), PASSAGE, 1_000);
        assert!(!ids.is_expired(1_000, 1_000 + KEEP_MS));
        assert!(ids.is_expired(1_000, 1_001 + KEEP_MS));
        ids.len = IDS_MAX + 1;
        assert!(ids.is_expired(1_000, 1_000));
    }

    #[test]
    fn ids_age_by_the_time_that_passes_and_not_by_a_clock_that_is_set() {
        let mut ids = EventIds::new();
        let begun_ms = ids.aged_to(0);
        // From 1970 to today, a day back, and years ahead.
        for jump_ms in [1_763_000_000_000, 1_762_913_600_000, 2_500_000_000_000] {
            assert!(!ids.is_expired(begun_ms, ids.age_ms));
            ids.aged_to(jump_ms);
        }
        assert!(ids.age_ms - begun_ms <= 2 * STEP_MS_MAX);
        let set_ms = 2_500_000_000_000;
        for minute in 1..=25 * 60 {
            ids.aged_to(set_ms + minute * 60_000);
        }
        assert!(ids.is_expired(begun_ms, ids.age_ms));
        let mut after = IdBlock::default();
        after.push(key(1).0, PASSAGE);
        after.newest_ms = ids.age_ms;
        let mut restarted = EventIds::new();
        restarted.load(0, after);
        assert_eq!(restarted.aged_to(0), ids.age_ms, "goes on after a restart");
    }
}
