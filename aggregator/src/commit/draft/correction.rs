//! What a unit has wrong of itself: its clock, or the number of its run.
//!
//! A unit numbers its runs by what its store remembers and by its clock. Where both are lost (a store
//! wiped after a clock that ran years ahead, or in 1970), it begins below what the centre knows of it,
//! and nothing that it states would be believed. So it is told, and calls its run by a higher number.
//!
//! Only what no message of the flush has right is corrected: messages of a backlog come late and out
//! of order, and a unit that is right must not pay for the bytes. But where a stream grows whose run is
//! behind, a copy may be speaking beside a unit that is right: then it is said, too, and who is right
//! passes over it.

use proto::EventTime;
use proto::header::{Frontier, UpHeader};
use proto::receipt::Correction;

/// A unit's clock may differ by so much, the way of its messages included.
const CLOCK_TOLERATED_MS: u64 = 60_000;

/// What the headers of one device in one flush say of it.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// The highest run, and the highest counter of it.
    order: Option<(u32, u64)>,
    /// The least difference between the unit's clock and the centre's.
    clock_off_ms: u64,
    /// Whether a stream of an earlier run has grown.
    is_behind: bool,
}

impl Stated {
    /// Takes note of a header.
    pub(super) fn hear(&mut self, header: &UpHeader, now_ms: i64) {
        let off_ms = header.sent_at.as_millis().abs_diff(now_ms);
        self.clock_off_ms = match self.order {
            None => off_ms,
            Some(_) => self.clock_off_ms.min(off_ms),
        };
        self.order = self.order.max(Some(header.frontier.order()));
    }

    /// Takes note that a stream of an earlier run has grown.
    pub(super) const fn hear_behind(&mut self) {
        self.is_behind = true;
    }

    /// What the unit is told, where `known` is the highest statement that was ever heard.
    pub(super) fn correction(&self, known: Option<Frontier>, now_ms: i64) -> Option<Correction> {
        let stated = self.order?;
        let (run, counter) = known.map_or(stated, Frontier::order);
        let is_wrong =
            self.is_behind || (run, counter) > stated || self.clock_off_ms > CLOCK_TOLERATED_MS;
        is_wrong.then_some(Correction {
            at: EventTime::from_millis(now_ms),
            run,
            counter,
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::device::DeviceId;
    use proto::frame::Up;

    use super::*;
    use crate::testing::{MemoryCentre, NOW, header, message, passage};

    fn frontier(run: u32, counter: u64) -> Frontier {
        Frontier {
            before: EventTime::from_millis(NOW),
            run,
            counter,
        }
    }

    /// What a unit is told after headers of these runs and counters, from a clock that is off so much.
    fn told(known: Frontier, headers: &[(u32, u64, i64)]) -> Option<(u32, u64)> {
        let mut stated = Stated::default();
        for (run, counter, off_ms) in headers {
            let mut header = header(1, 1, 1, 1);
            header.frontier = frontier(*run, *counter);
            header.sent_at = EventTime::from_millis(NOW + off_ms);
            stated.hear(&header, NOW);
        }
        let correction = stated.correction(Some(known), NOW)?;
        assert_eq!(correction.at, EventTime::from_millis(NOW));
        Some((correction.run, correction.counter))
    }

    #[test]
    fn only_a_unit_that_is_wrong_throughout_is_corrected() {
        let known = frontier(7, 100);
        for (headers, expected) in [
            (&[][..], None),
            (&[(7, 100, 0)], None),
            (&[(7, 100, -59_000)], None),
            // Out of order, of a backlog.
            (&[(7, 100, 0), (7, 3, 0)], None),
            (&[(7, 100, 0), (7, 99, -600_000)], None),
            // Another run, lower or by the same number.
            (&[(6, 1_000, 0)], Some((7, 100))),
            (&[(7, 3, 0), (7, 4, 0)], Some((7, 100))),
            // Years ahead, and 1970.
            (&[(7, 100, 1 << 40)], Some((7, 100))),
            (&[(7, 100, -NOW)], Some((7, 100))),
        ] {
            assert_eq!(told(known, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn copies_that_speak_in_the_same_flushes_are_corrected_by_turns_until_they_are_seen() {
        let mut centre = MemoryCentre::new();
        // What each calls its run, and whether the alarm came with a flush.
        let mut runs = [7, 6];
        let mut flush = |n: u64| {
            let messages = runs.iter().zip(1..).map(|(run, stream)| {
                let mut header = header(stream, n, 1, n);
                header.frontier = frontier(*run, n);
                let up = Up::Passages(std::iter::once(passage(NOW, 1)).collect());
                message("KV1", &header, &up)
            });
            let flushed = centre.flush(messages.collect());
            let told = flushed.receipts.iter().find_map(|(_, r)| r.correction);
            let told = told.map(|correction| (correction.run, correction.counter));
            for run in runs.iter_mut().filter(|run| told > Some((**run, n))) {
                *run = told.map_or(*run, |(run, _)| run + 1);
            }
            centre.state("KV1").finality.is_cloned(NOW)
        };
        let flushes = (1..=8).take_while(|n| !flush(*n)).count();
        assert!(flushes < 8, "no alarm in {flushes} flushes");
    }

    #[test]
    fn a_unit_whose_store_was_wiped_is_told_its_last_run_and_believed_from_the_next_on() {
        let mut centre = MemoryCentre::new();
        let mut state = |run, before_ms| {
            let mut header = header(1, 1, 1, 1);
            header.frontier = Frontier {
                before: EventTime::from_millis(before_ms),
                ..frontier(run, 1)
            };
            let up = Up::Passages(std::iter::once(passage(NOW, 1)).collect());
            let flushed = centre.flush(vec![message("KV1", &header, &up)]);
            let told = flushed.receipts.iter().filter_map(|(_, r)| r.correction);
            let runs: Vec<u32> = told.map(|correction| correction.run).collect();
            let device = centre.memory.device(&DeviceId::new("KV1").unwrap());
            (runs, device.unwrap().finality.final_to_ms)
        };
        let hour_ms = 3_600_000;
        let (told, before) = state(2_500_000_000, NOW - 2 * hour_ms);
        assert!(told.is_empty() && before.is_some());
        assert_eq!(
            state(1_743_850_530, NOW - hour_ms),
            (vec![2_500_000_000], before)
        );
        let (told, after) = state(2_500_000_001, NOW - hour_ms);
        assert!(told.is_empty() && after > before, "{told:?} {after:?}");
    }
}
