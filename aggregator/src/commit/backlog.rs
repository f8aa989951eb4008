//! Messages of devices with a backlog, between two flushes. Pure.
//!
//! As many as a flush takes in `FLUSH`: more would keep live messages waiting, fewer would leave the
//! database with what each transaction costs by itself. How many that are is learned from the flushes
//! before. The threads that decode have the next ones ready.
//!
//! A device with a backlog sends until it has as much without a receipt as it may, and then waits.
//! With such a device at hand, or with enough for a flush, a flush is *urgent*: it begins without its
//! tick, so that the link and the database, and not the flush interval, say how fast a backlog
//! travels.

use std::time::Duration;

use crate::intake::decode::Message;

/// How long a flush should take that a backlog makes longer.
const FLUSH: Duration = Duration::from_millis(200);

/// However slow the database is, no more are taken when rows and deltas of so much memory wait: some
/// 45,000 raw rows.
pub const BACKLOG_FLUSH_BYTES_MIN: usize = 4 << 20;

/// However fast it is.
pub const BACKLOG_FLUSH_BYTES_MAX: usize = 32 << 20;

/// See the module.
#[derive(Debug)]
pub struct Backlog {
    messages: Vec<Message>,
    passages: u64,
    bytes: usize,
    held_up: bool,
    /// No more are taken when so many bytes wait.
    bytes_max: usize,
    /// Bytes that the flush under way has of this.
    flushing: usize,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            passages: 0,
            bytes: 0,
            held_up: false,
            bytes_max: BACKLOG_FLUSH_BYTES_MIN,
            flushing: 0,
        }
    }
}

impl Backlog {
    /// Takes messages in.
    pub fn wait(&mut self, messages: Vec<Message>) {
        for message in &messages {
            self.passages += message.passages();
            self.bytes += message.memory_bytes();
            self.held_up |= message.sender().is_held_up();
        }
        self.messages.extend(messages);
    }

    /// Whether more may wait, when a flush takes so many passages.
    #[must_use]
    pub const fn has_room(&self, passages_max: u64) -> bool {
        self.bytes < self.bytes_max && self.passages < passages_max
    }

    /// Whether a flush should begin now.
    #[must_use]
    pub const fn is_urgent(&self, passages_max: u64) -> bool {
        self.held_up || !self.has_room(passages_max)
    }

    /// Gives out what waits, in the order in which it came.
    pub fn take(&mut self) -> Vec<Message> {
        self.flushing = std::mem::take(&mut self.bytes);
        (self.passages, self.held_up) = (0, false);
        std::mem::take(&mut self.messages)
    }

    /// Learns from the flush of what was given out last, when that was much. Half a step at a time:
    /// one flush may have waited for a checkpoint.
    pub fn flushed(&mut self, took: Duration) {
        let flushing = std::mem::take(&mut self.flushing);
        if flushing < BACKLOG_FLUSH_BYTES_MIN / 2 {
            return;
        }
        let bytes = flushing as u128 * FLUSH.as_micros() / took.as_micros().max(1);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = bytes.clamp(BACKLOG_FLUSH_BYTES_MIN, BACKLOG_FLUSH_BYTES_MAX);
        self.bytes_max = usize::midpoint(self.bytes_max, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proto::Plate;
    use proto::passage::Passage;
    use proto::plate::PlateText;

    use super::*;
    use crate::testing::{batch, passage};

    const MANY: u64 = 1 << 40;

    /// 4,096 passages with plates that no codec makes small.
    fn large(device: &str) -> Message {
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
        let plate = |n| format!("{:014x}{:014x}", mixed(n) >> 8, mixed(mixed(n)) >> 8);
        let passages: Vec<_> = (0..4_096)
            .map(|n| Passage {
                plate: Plate::Text(PlateText::new(&plate(n)).unwrap()),
                ..passage(0, 5_000)
            })
            .collect();
        batch(device, 1, 1, &passages)
    }

    #[test]
    fn a_device_that_must_soon_wait_makes_a_flush_urgent_and_another_does_not() {
        let mut backlog = Backlog::default();
        backlog.wait(vec![batch("KV1", 1, 1, &[passage(0, 5_000)])]);
        assert!(!backlog.is_urgent(MANY));
        backlog.wait(vec![large("LATE")]);
        assert!(backlog.is_urgent(MANY) && backlog.has_room(MANY));
        let devices: Vec<_> = backlog
            .take()
            .iter()
            .map(|message| message.sender().device.to_string())
            .collect();
        assert_eq!(devices, ["KV1", "LATE"]);
        assert!(!backlog.is_urgent(MANY) && backlog.take().is_empty());
    }

    #[test]
    fn no_more_is_taken_than_a_flush_takes_in_bytes_or_in_passages() {
        let mut backlog = Backlog::default();
        let mut taken = 0;
        while backlog.has_room(MANY) {
            backlog.wait(vec![large("LATE")]);
            taken += 1;
        }
        assert!(taken > 1 && backlog.is_urgent(MANY));
        assert_eq!(backlog.take().len(), taken);
        assert!(backlog.has_room(MANY));

        backlog.wait(vec![batch("KV1", 1, 1, &vec![passage(0, 5_000); 3])]);
        assert!(backlog.has_room(4) && !backlog.is_urgent(4));
        assert!(!backlog.has_room(3) && backlog.is_urgent(3));
    }
    #[test]
    fn flushes_grow_while_they_are_quick_and_shrink_when_they_are_slow_within_their_bounds() {
        let mut backlog = Backlog::default();
        let mut after = |flushes: usize, took| {
            for _ in 0..flushes {
                backlog.flushing = backlog.bytes_max;
                backlog.flushed(took);
            }
            backlog.bytes_max
        };
        let near = |bytes: usize, max: usize| bytes.abs_diff(max) < 16;
        let grown = after(40, FLUSH / 100);
        assert!(near(grown, BACKLOG_FLUSH_BYTES_MAX), "{grown}");
        assert_eq!(after(40, FLUSH), grown);
        let halved = after(1, 2 * FLUSH);
        assert!(near(halved, BACKLOG_FLUSH_BYTES_MAX / 4 * 3), "{halved}");
        let shrunk = after(60, 100 * FLUSH);
        assert!(near(shrunk, BACKLOG_FLUSH_BYTES_MIN), "{shrunk}");
    }

    #[test]
    fn a_flush_of_little_teaches_nothing() {
        let mut backlog = Backlog::default();
        backlog.wait(vec![batch("KV1", 1, 1, &[passage(0, 5_000)])]);
        backlog.take();
        backlog.flushed(Duration::ZERO);
        assert_eq!(backlog.bytes_max, BACKLOG_FLUSH_BYTES_MIN);
    }
}
