//! Live messages that wait for a flush, by turns. Pure.
//!
//! ```text
//! threads that decode ──► [ turn 0 | turn 1 | turn 2 | turn 3 ] ──one at each tick──► flush
//! ```
//! A flush interval has [`TURNS`] flushes, each of the units of every eighth shard. The work of an
//! interval is the same as with one flush, and a unit waits no longer, but nothing else on the
//! machine (a question to the API, a handshake) waits behind all of it at once.
//!
//! Invariant: a unit's live messages leave in the order in which they came, for they share one turn.

use crate::intake::decode::Message;

/// Flushes in one flush interval.
pub const TURNS: u8 = 8;

/// A flush of what is live begins sooner when rows and deltas of so much memory wait: some 350,000 raw rows.
pub const FLUSH_BYTES_MAX: usize = 32 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Turns {
    waiting: [Turn; TURNS as usize],
    next: usize,
}

#[derive(Debug, Default)]
struct Turn {
    messages: Vec<Message>,
    passages: u64,
    bytes: usize,
}

impl Turns {
    /// Takes messages in.
    pub fn wait(&mut self, messages: Vec<Message>) {
        for message in messages {
            let turn = &mut self.waiting[usize::from(message.sender().shard.get() % TURNS)];
            turn.passages += message.passages();
            turn.bytes += message.memory_bytes();
            turn.messages.push(message);
        }
    }

    /// Gives out what waited for the turn that is due.
    pub fn take_next(&mut self) -> Vec<Message> {
        let turn = std::mem::take(&mut self.waiting[self.next]);
        self.next = (self.next + 1) % self.waiting.len();
        turn.messages
    }

    /// Gives out everything.
    pub fn take_all(&mut self) -> Vec<Message> {
        let turns = std::mem::take(&mut self.waiting);
        turns.into_iter().flat_map(|turn| turn.messages).collect()
    }

    /// Whether so much waits that the flush begins at once.
    #[must_use]
    pub fn is_full(&self, passages_max: u64) -> bool {
        let passages: u64 = self.waiting.iter().map(|turn| turn.passages).sum();
        // Memory that waiting rows and deltas take.
        let bytes: usize = self.waiting.iter().map(|turn| turn.bytes).sum();
        passages >= passages_max || bytes >= FLUSH_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::limits::BATCH_PASSAGES_MAX;

    use crate::testing::{batch, passage};

    const DEVICES: usize = 12;

    fn messages() -> Vec<Message> {
        (0..3 * DEVICES)
            .map(|n| {
                let device = format!("KV{}", n % DEVICES);
                batch(&device, 1, 1 + n as u64, &[passage(0, 5_000)])
            })
            .collect()
    }

    fn named(messages: &[Message]) -> Vec<(String, u64)> {
        let name = |message: &Message| {
            let first = message
                .header
                .range()
                .map_or(0, |range| range.first().get());
            (message.sender().device.to_string(), first)
        };
        messages.iter().map(name).collect()
    }

    #[test]
    fn an_interval_gives_out_everything_once_and_each_unit_in_one_turn_and_in_order() {
        let mut turns = Turns::default();
        turns.wait(messages());
        assert!(turns.is_full(3 * DEVICES as u64));
        let given: Vec<_> = (0..TURNS).map(|_| named(&turns.take_next())).collect();
        assert!(given.iter().filter(|turn| !turn.is_empty()).count() > 1);
        for device in (0..DEVICES).map(|n| format!("KV{n}")) {
            let of_device = |turn: &Vec<(String, u64)>| -> Vec<u64> {
                let of_device = turn.iter().filter(|(name, _)| *name == device);
                of_device.map(|(_, first)| *first).collect()
            };
            let turns: Vec<_> = given
                .iter()
                .map(of_device)
                .filter(|t| !t.is_empty())
                .collect();
            assert_eq!(turns.len(), 1);
            assert!(turns[0].len() == 3 && turns[0].is_sorted());
        }
        assert!(!turns.is_full(1));
    }

    #[test]
    fn a_flush_begins_at_once_when_as_many_passages_or_bytes_wait_as_may() {
        let mut turns = Turns::default();
        turns.wait(messages());
        let waiting = 3 * DEVICES as u64;
        assert!(turns.is_full(waiting) && !turns.is_full(waiting + 1));

        let passages = vec![passage(0, 5_000); BATCH_PASSAGES_MAX];
        let (mut turns, mut bytes) = (Turns::default(), 0);
        while bytes < FLUSH_BYTES_MAX {
            assert!(!turns.is_full(u64::MAX), "{bytes} bytes wait");
            let message = batch("KV1", 1, 1, &passages);
            bytes += message.memory_bytes();
            turns.wait(vec![message]);
        }
        assert!(turns.is_full(u64::MAX), "{bytes} bytes wait");
    }

    #[test]
    fn all_is_given_out_at_once_when_asked_and_then_no_turn_has_any() {
        let mut turns = Turns::default();
        turns.wait(messages());
        assert_eq!(turns.take_all().len(), 3 * DEVICES);
        assert!((0..TURNS).all(|_| turns.take_next().is_empty()));
    }
}
