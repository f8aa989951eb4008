//! Messages of devices with a backlog, between two flushes. Pure.
//!
//! As many as a flush takes in a tenth of a second or so: more would keep live messages waiting, and
//! the threads that decode have the next ones ready.
//!
//! A device with a backlog sends until it has as much without a receipt as it may, and then waits.
//! With such a device at hand, or with enough for a flush, a flush is *urgent*: it begins without its
//! tick, so that the link and the database, and not the flush interval, say how fast a backlog
//! travels.

use crate::intake::decode::Message;

/// No more are taken when rows and deltas of so much memory wait: some 45,000 raw rows.
pub const BACKLOG_FLUSH_BYTES: usize = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    messages: Vec<Message>,
    passages: u64,
    bytes: usize,
    held_up: bool,
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
        self.bytes < BACKLOG_FLUSH_BYTES && self.passages < passages_max
    }

    /// Whether a flush should begin now.
    #[must_use]
    pub const fn is_urgent(&self, passages_max: u64) -> bool {
        self.held_up || !self.has_room(passages_max)
    }

    /// Gives out what waits, in the order in which it came.
    pub fn take(&mut self) -> Vec<Message> {
        std::mem::take(self).messages
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

        backlog.wait(vec![batch("KV1", 1, 1, &vec![passage(0, 5_000); 3])]);
        assert!(backlog.has_room(4) && !backlog.is_urgent(4));
        assert!(!backlog.has_room(3) && backlog.is_urgent(3));
    }
}
