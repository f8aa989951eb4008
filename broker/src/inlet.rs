//! The one way of messages into the router.
//!
//! Connections lay down what was judged good; one task hands it to the router, all that came within
//! `GATHER` together. Each hand-over wakes the router's thread and after it the centre's connection,
//! which writes to its socket: one at a time, that would be most of what a small message costs.
//!
//! Invariants: messages reach the router in the order in which they were laid down; it has one
//! hand-over at a time, and none that would overrun a ring before it is read. Bounds: above `WAITING_MAX` messages or `WAITING_BYTES_MAX` nobody who
//! publishes is read from; each can have laid down one read more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttd::protocol::{Packet, Publish};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::beacons::Beacons;
use crate::engine::{Link, RouterGone};

/// How long messages are gathered while they are few. A receipt takes a flush of the centre, a
/// hundred times as long.
const GATHER: Duration = Duration::from_millis(10);
/// So many are not gathered any longer: less than the router hands on at a time.
const MANY: usize = 64;
/// So many bytes neither.
const MANY_BYTES: usize = 64 * 1024;
/// The most messages of one hand-over, after which the router serves its subscribers.
const HAND_OVER_MAX: usize = 256;
/// The most bytes, unless one message has more: a fraction of a shard's ring.
const HAND_OVER_BYTES_MAX: usize = 512 * 1024;
/// How long the router has before it is looked at again.
const LOOK: Duration = Duration::from_millis(1);
/// Messages that wait, before their senders are not read from.
const WAITING_MAX: usize = 8_192;
/// Bytes of them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What waits for the router.
#[derive(Debug, Default)]
pub struct Inlet {
    waiting: Mutex<Waiting>,
    /// Something waits.
    some: Notify,
    /// So much waits that gathering more is of no use.
    many: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with its bytes, oldest first.
    messages: VecDeque<(Packet, usize)>,
    bytes: usize,
    /// Whose beacons the router has or will have of these.
    beacons: Beacons,
}

impl Inlet {
    /// Lays a message down for the router, unless it is the beacon of a former owner: then `false`.
    pub fn lay(&self, topic: bytes::Bytes, payload: &[u8], retain: bool) -> bool {
        let bytes = topic.len() + payload.len();
        let publish = Publish::new(topic, bytes::Bytes::copy_from_slice(payload), retain);
        let mut waiting = self.waiting();
        if retain && !waiting.beacons.admit(&publish.topic, &publish.payload) {
            return false;
        }
        let was_many = waiting.is_many();
        waiting
            .messages
            .push_back((Packet::Publish(publish, None), bytes));
        waiting.bytes += bytes;
        let (first, many) = (waiting.messages.len() == 1, waiting.is_many());
        drop(waiting);
        if first {
            self.some.notify_one();
        }
        if many && !was_many {
            self.many.notify_one();
        }
        true
    }

    /// Whether the router lags so far behind that no more should be taken for a moment.
    #[must_use]
    pub fn is_backed_up(&self) -> bool {
        let waiting = self.waiting();
        waiting.messages.len() > WAITING_MAX || waiting.bytes > WAITING_BYTES_MAX
    }

    /// Hands to the router what is laid down, for as long as it is polled.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn carry(&self, link: &mut Link) -> Result<(), RouterGone> {
        loop {
            self.gathered().await;
            while link.is_lagging() {
                sleep(LOOK).await;
            }
            let taken = self.waiting().take();
            link.hand_over(taken).await?;
        }
    }

    /// Returns when something waits that is worth a hand-over: much, or for long enough.
    async fn gathered(&self) {
        if self.waiting().messages.is_empty() {
            self.some.notified().await;
        }
        // Said of a hand-over before, it ends this gathering early, and does no harm.
        if !self.waiting().is_many() {
            timeout(GATHER, self.many.notified()).await.ok();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_many(&self) -> bool {
        self.messages.len() >= MANY || self.bytes >= MANY_BYTES
    }

    /// The oldest, as many as one hand-over has.
    fn take(&mut self) -> VecDeque<Packet> {
        let (mut taken, mut taken_bytes) = (VecDeque::new(), 0);
        while taken.len() < HAND_OVER_MAX
            && taken_bytes < HAND_OVER_BYTES_MAX
            && let Some((packet, bytes)) = self.messages.pop_front()
        {
            taken_bytes += bytes;
            taken.push_back(packet);
        }
        self.bytes -= taken_bytes;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_held_up_above_the_limits_alone() {
        let inlet = Inlet::default();
        for _ in 0..WAITING_MAX {
            inlet.lay("t".into(), b"", false);
        }
        assert!(!inlet.is_backed_up());
        inlet.lay("t".into(), b"", false);
        assert!(inlet.is_backed_up());

        let inlet = Inlet::default();
        let payload = vec![0; WAITING_BYTES_MAX / 4];
        for _ in 0..4 {
            assert!(!inlet.is_backed_up());
            inlet.lay("t".into(), &payload, false);
        }
        assert!(inlet.is_backed_up());
    }

    /// Of few it is the time that ends the gathering: nothing else would.
    #[tokio::test]
    async fn few_messages_are_gathered_for_a_while_and_not_for_ever() {
        let inlet = Inlet::default();
        let gathered = async |inlet: &Inlet| {
            let patience = Duration::from_secs(60);
            timeout(patience, inlet.gathered())
                .await
                .expect("handed over");
        };
        for count in [1, MANY - 1, MANY, HAND_OVER_MAX] {
            for _ in 0..count {
                inlet.lay("t".into(), b"", false);
            }
            gathered(&inlet).await;
            assert_eq!(inlet.waiting().take().len(), count);
        }
    }

    #[test]
    fn a_hand_over_is_bounded_and_keeps_the_order() {
        let inlet = Inlet::default();
        let count = HAND_OVER_MAX + 3;
        for number in 0..count {
            inlet.lay("t".into(), &number.to_be_bytes(), false);
        }
        let mut expected = 0_usize;
        for hand_over in [HAND_OVER_MAX, 3, 0] {
            let taken = inlet.waiting().take();
            assert_eq!(taken.len(), hand_over);
            for packet in taken {
                let Packet::Publish(publish, _) = packet else {
                    panic!("{packet:?}")
                };
                assert_eq!(publish.payload[..], expected.to_be_bytes());
                expected += 1;
            }
        }
        assert_eq!((expected, inlet.waiting().bytes), (count, 0));

        for _ in 0..3 {
            inlet.lay("t".into(), &vec![0; HAND_OVER_BYTES_MAX], false);
        }
        assert_eq!(inlet.waiting().take().len(), 1);
    }
}
