//! ● What happened to a disk, block by block, and the disk as a cut may leave it. Pure.
//!
//! A flush is a barrier: what was written before it began is certain from then on. Of what was written
//! since, every sector may be there or not, whatever became of the sectors before it: writes are thus
//! dropped, torn and reordered.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The unit in which a disk writes all or nothing.
pub(super) const SECTOR_BYTES: usize = 512;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes at an offset.
    Write {
        /// Of the disk.
        at: usize,
        /// What stands there from now on, perhaps.
        bytes: Vec<u8>,
    },
    /// Everything before is certain.
    Flush,
    /// The writer said a line.
    Said(String),
}

/// What becomes of one write that no flush covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    Kept,
    /// Each of its sectors by itself.
    Torn,
}

/// The recording.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// The disk at its beginning.
    pub(super) before: Vec<u8>,
    /// In the order in which the disk was told.
    pub(super) events: Vec<Event>,
}

impl Tape {
    /// The disk when the power went after the first `cut` events.
    pub(super) fn disk_after(&self, cut: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let events = &self.events[..cut];
        let flush = events.iter().rposition(|event| *event == Event::Flush);
        let certain = flush.map_or(0, |place| place + 1);
        let mut disk = self.before.clone();
        for (place, event) in events.iter().enumerate() {
            let Event::Write { at, bytes } = event else {
                continue;
            };
            let fate = if place < certain {
                Fate::Kept
            } else {
                [Fate::Dropped, Fate::Kept, Fate::Torn][rng.random_range(0..3)]
            };
            match fate {
                Fate::Dropped => {}
                Fate::Kept => write(&mut disk, *at, bytes),
                Fate::Torn => {
                    for (sector, part) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if rng.random() {
                            write(&mut disk, at + sector * SECTOR_BYTES, part);
                        }
                    }
                }
            }
        }
        disk
    }

    /// What was said in the first `cut` events.
    pub(super) fn said(&self, cut: usize) -> impl Iterator<Item = &str> {
        self.events[..cut].iter().filter_map(|event| match event {
            Event::Said(line) => Some(line.as_str()),
            _ => None,
        })
    }

    /// The first place at which something is promised.
    pub(super) fn first_promise(&self) -> usize {
        let said = |event: &Event| matches!(event, Event::Said(_));
        self.events.iter().position(said).unwrap_or(0)
    }
}

fn write(disk: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = disk.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn tape(events: Vec<Event>) -> Tape {
        Tape {
            before: vec![0; 4 * SECTOR_BYTES],
            events,
        }
    }

    fn sectors(disk: &[u8]) -> Vec<u8> {
        disk.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
    }

    #[test]
    fn only_what_a_flush_covers_is_certain_and_the_rest_may_come_in_any_order() {
        let write = |sector: usize, byte: u8, sectors: usize| Event::Write {
            at: sector * SECTOR_BYTES,
            bytes: vec![byte; sectors * SECTOR_BYTES],
        };
        let tape = tape(vec![
            write(0, 1, 1),
            Event::Flush,
            write(1, 2, 2),
            write(3, 3, 1),
        ]);
        let disks: BTreeSet<Vec<u8>> = (0..200)
            .map(|seed| sectors(&tape.disk_after(4, &mut ChaCha8Rng::seed_from_u64(seed))))
            .collect();
        let possible = [0, 2].into_iter().flat_map(|a| {
            [0, 2]
                .into_iter()
                .flat_map(move |b| [0, 3].map(move |c| vec![1, a, b, c]))
        });
        assert_eq!(
            disks,
            possible.collect(),
            "torn, dropped, kept, the later without the earlier"
        );
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(sectors(&tape.disk_after(2, &mut rng)), [1, 0, 0, 0]);
    }
}
