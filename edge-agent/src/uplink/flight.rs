//! The messages that have no answer yet, and how long an answer may take. Pure.
//!
//! A message is a run of passages that travels as one frame, whole, until receipts cover it. Its
//! way: `Due` → `Reading` (asked of the buffer) → `Ready` (framed) → `Sent` → gone, or `Due` again.
//!
//! Invariants: a number is in at most one message; at most `2 W` messages; the bytes of those on
//! their way stay within [`IN_FLIGHT_BYTES_MAX`], a single larger frame travels alone.

use std::collections::BTreeMap;

use proto::limits::{IN_FLIGHT_BATCHES_MAX, IN_FLIGHT_BYTES_MAX};
use proto::{SeqRange, StreamId};

use super::backoff::{Backoff, Jitter, Millis};
use super::lanes::Lane;

/// Messages on their way, all lanes together; the centre holds as many per device.
pub const MESSAGES_MAX: usize = 2 * IN_FLIGHT_BATCHES_MAX;

/// Unanswered sendings, while others were answered, that make a message suspect.
pub const STRIKES_MAX: u32 = 5;

/// Names a message between the machine and its shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// To be read and sent as soon as the gate allows.
    Due,
    /// The buffer was asked for it.
    Reading,
    /// Framed, waiting for room on the link.
    Ready {
        /// Bytes of its frame.
        bytes: usize,
    },
    /// Handed to the link.
    Sent {
        /// When.
        at: Millis,
        /// When it counts as unanswered.
        deadline: Millis,
        /// Bytes of its frame.
        bytes: usize,
        /// Messages answered until then.
        answers: u64,
    },
}

/// Passages on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Their stream.
    pub stream: StreamId,
    /// Their numbers.
    pub range: SeqRange,
    /// By which lane they left.
    pub lane: Lane,
    /// Where the message is.
    pub phase: Phase,
    /// Whether it leaves through a shut gate.
    pub probe: bool,
    /// How often it was sent.
    pub sendings: u32,
    /// How often it stayed unanswered while others were answered.
    pub strikes: u32,
}

/// All messages without an answer.
#[derive(Debug, Clone)]
pub struct Flight {
    messages: BTreeMap<MessageId, Message>,
    next_id: u64,
    /// Messages answered so far.
    answers: u64,
    /// Smoothed time from sending to receipt, in 1/8 ms (Jacobson's estimator).
    smoothed_eighths: Option<u64>,
    /// Times of the answers since they were last taken; the shell takes them at every turn.
    answer_times: Vec<Millis>,
    resend: Backoff,
}

impl Flight {
    /// None yet. `resend.base_ms` is the least time that an answer is given.
    #[must_use]
    pub const fn new(resend: Backoff) -> Self {
        let messages = BTreeMap::new();
        Self {
            messages,
            next_id: 0,
            answers: 0,
            smoothed_eighths: None,
            answer_times: Vec::new(),
            resend,
        }
    }

    /// Adds a message that is to be read.
    pub fn add(&mut self, stream: StreamId, range: SeqRange, lane: Lane) -> MessageId {
        let id = MessageId(self.next_id);
        self.next_id += 1;
        let phase = Phase::Due;
        let message = Message {
            stream,
            range,
            lane,
            phase,
            probe: false,
            sendings: 0,
            strikes: 0,
        };
        self.messages.insert(id, message);
        id
    }

    /// All messages, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MessageId, &Message)> {
        self.messages.iter().map(|(id, message)| (*id, message))
    }

    /// The ranges of a stream that are in messages.
    pub fn ranges_of(&self, stream: StreamId) -> impl Iterator<Item = SeqRange> + '_ {
        self.messages
            .values()
            .filter(move |m| m.stream == stream)
            .map(|message| message.range)
    }

    /// One message.
    pub fn get_mut(&mut self, id: MessageId) -> Option<&mut Message> {
        self.messages.get_mut(&id)
    }

    /// Takes a message out.
    pub fn remove(&mut self, id: MessageId) -> Option<Message> {
        self.messages.remove(&id)
    }

    /// Messages that are on their way or about to be, of one lane or of all.
    #[must_use]
    pub fn active(&self, lane: Option<Lane>) -> usize {
        let of_lane = |message: &&Message| lane.is_none_or(|lane| message.lane == lane);
        let active = self
            .messages
            .values()
            .filter(|message| message.phase != Phase::Due);
        active.filter(of_lane).count()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether a frame of so many bytes may join those that are on their way.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        let sent = self.bytes_sent(None);
        sent == 0 || sent + bytes <= IN_FLIGHT_BYTES_MAX
    }

    /// Whether it may join those of its lane when they may be so many bytes together. One may always.
    #[must_use]
    pub fn lane_has_room(&self, lane: Lane, bytes: usize, bytes_max: usize) -> bool {
        let sent = self.bytes_sent(Some(lane));
        sent == 0 || sent + bytes <= bytes_max
    }

    /// Bytes on their way, of one lane or of all.
    #[must_use]
    pub fn bytes_sent(&self, lane: Option<Lane>) -> usize {
        let of_lane = self
            .messages
            .values()
            .filter(|m| lane.is_none_or(|lane| m.lane == lane));
        let bytes = of_lane.map(|message| match message.phase {
            Phase::Sent { bytes, .. } => bytes,
            Phase::Due | Phase::Reading | Phase::Ready { .. } => 0,
        });
        bytes.sum()
    }

    /// A message was handed to the link.
    pub fn sent(&mut self, id: MessageId, now: Millis, jitter: &mut Jitter) {
        let timeout = self.resend_timeout_ms();
        let answers = self.answers;
        let Some(message) = self.messages.get_mut(&id) else {
            return;
        };
        let Phase::Ready { bytes } = message.phase else {
            return;
        };
        message.sendings += 1;
        message.probe = false;
        let backoff = Backoff {
            base_ms: timeout,
            cap_ms: self.resend.cap_ms.max(timeout),
        };
        let wait = backoff.bound_ms(message.sendings);
        let deadline = now + wait + jitter.up_to(wait / 4);
        message.phase = Phase::Sent {
            at: now,
            deadline,
            bytes,
            answers,
        };
    }

    /// Takes out what `is_settled` covers, and learns from it how long answers take.
    pub fn settle(
        &mut self,
        now: Millis,
        stream: StreamId,
        is_settled: impl Fn(SeqRange) -> bool,
    ) -> Vec<(MessageId, Message)> {
        let answered: Vec<_> = self
            .messages
            .extract_if(.., |_, m| m.stream == stream && is_settled(m.range))
            .collect();
        for (_, message) in &answered {
            self.answers += 1;
            // A message that was sent twice does not say which sending was answered (Karn).
            if let (Phase::Sent { at, .. }, 1) = (message.phase, message.sendings) {
                self.learn(now.saturating_sub(at));
            }
        }
        answered
    }

    /// Messages whose answer is overdue become due again. Returns those that are now suspect.
    pub fn expire(&mut self, now: Millis) -> Vec<(MessageId, Message)> {
        for message in self.messages.values_mut() {
            let Phase::Sent {
                deadline, answers, ..
            } = message.phase
            else {
                continue;
            };
            if deadline <= now {
                message.phase = Phase::Due;
                message.strikes += u32::from(self.answers > answers);
            }
        }
        self.messages
            .extract_if(.., |_, message| message.strikes >= STRIKES_MAX)
            .collect()
    }

    /// Nothing that was handed to the link can be counted on: all is to be sent again. Returns
    /// the messages whose frames are to be forgotten.
    pub fn lose_all(&mut self) -> Vec<MessageId> {
        let mut framed = Vec::new();
        for (id, message) in &mut self.messages {
            if matches!(message.phase, Phase::Ready { .. } | Phase::Sent { .. }) {
                framed.push(*id);
                message.phase = Phase::Due;
            }
            message.probe = false;
        }
        framed
    }

    /// What was live when it left is backlog from here on.
    pub fn age(&mut self) {
        for message in self
            .messages
            .values_mut()
            .filter(|message| message.lane == Lane::Live)
        {
            message.lane = Lane::Backlog;
        }
    }

    /// When the next answer is overdue.
    #[must_use]
    pub fn timeout(&self) -> Option<Millis> {
        let deadlines = self
            .messages
            .values()
            .filter_map(|message| match message.phase {
                Phase::Sent { deadline, .. } => Some(deadline),
                Phase::Due | Phase::Reading | Phase::Ready { .. } => None,
            });
        deadlines.min()
    }

    /// How long a first sending waits for its answer: four times what is usual, and the least.
    #[must_use]
    pub fn resend_timeout_ms(&self) -> Millis {
        let usual = self.smoothed_eighths.map_or(0, |eighths| eighths / 2);
        usual.max(self.resend.base_ms)
    }

    /// Smoothed time from sending to receipt.
    #[must_use]
    pub fn receipt_time_ms(&self) -> Option<Millis> {
        self.smoothed_eighths.map(|eighths| eighths / 8)
    }

    /// How long the answers took that came since the last call.
    pub fn take_answer_times(&mut self) -> Vec<Millis> {
        std::mem::take(&mut self.answer_times)
    }

    fn learn(&mut self, sample_ms: Millis) {
        self.answer_times.push(sample_ms);
        let before = self.smoothed_eighths.unwrap_or(sample_ms * 8);
        self.smoothed_eighths = Some(before - before / 8 + sample_ms);
    }
}

#[cfg(test)]
mod tests;
