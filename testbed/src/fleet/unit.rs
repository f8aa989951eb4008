//! One simulated unit: decides what it offers, when, and when it may forget it.
//!
//! Pure: time comes in as `now_ms` (wall clock that never goes back), traffic from a seeded
//! generator, frames from the centre as values; what is to be published comes out. It speaks as the
//! agent does — window of in-flight batches, receipts, resends, beacon, refusals, frontier — but its
//! buffer is memory: a simulated unit does not survive its process.
//!
//! Invariants:
//! - a passage is posted, and its place in the stream taken, before it is in any frame;
//! - a batch is in exactly one of `waiting`, `outbox`, `in_flight`, and leaves the last one only by a
//!   receipt that covers it or a refusal for ever;
//! - at most [`IN_FLIGHT_BATCHES_MAX`] batches and [`IN_FLIGHT_BYTES_MAX`] bytes are in flight (one
//!   batch always may);
//! - the backlog is bounded: at its limit the road is closed, nothing is posted until there is room.

mod answers;
mod batch;
mod offers;
mod plates;

use std::collections::VecDeque;

use bytes::Bytes;
use proto::frame::Down;
use proto::limits::IN_FLIGHT_BATCHES_MAX;
#[cfg(doc)]
use proto::limits::IN_FLIGHT_BYTES_MAX;
use proto::receipt::{Centre, Intake};
use proto::{PassageBatch, Seq, SeqRange, SeqSet, StreamId};

pub use batch::{Batch, Cut};
pub use plates::Plates;

use super::traffic::Traffic;
use batch::{Content, InFlight};
use plates::mix;

/// How often a unit speaks of itself.
const HEARTBEAT_MS: i64 = 60_000;

/// How a unit behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// How long a posted passage waits for company before its batch leaves.
    pub linger_ms: i64,
    /// Passages in a batch, at most; so many end the wait at once.
    pub batch_passages: usize,
    /// Passages without a receipt, at most; beyond, the road is closed.
    pub backlog_passages_max: u64,
    /// How late the camera may deliver: the frontier stays this far behind the clock.
    pub camera_delay_max_ms: i64,
    /// What happens to plates.
    pub plates: Plates,
    /// For [`Plates::Hashed`], and the jitter of the unit.
    pub seed: u64,
}

/// What became of a unit's passages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passages that it accepted.
    pub posted: u64,
    /// Of them, those with a receipt: committed at the centre.
    pub receipted: u64,
    /// Of them, those refused for ever.
    pub refused: u64,
    /// Passages frames offered, each offer counted.
    pub offered_batches: u64,
    /// Of them, offered before.
    pub resent_batches: u64,
    /// Refusals of any class.
    pub refusals: u64,
    /// Frames from the centre that cannot be read.
    pub unreadable: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// Subscribed; `Some` once the shard's owner was heard on this connection.
    Up(Option<Owner>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    token: u64,
    intake: Intake,
}

/// One simulated unit.
#[derive(Debug)]
pub struct Unit {
    stream: StreamId,
    habits: Habits,
    traffic: Option<Traffic>,
    counts: Counts,
    waiting: PassageBatch,
    /// The clock when the oldest of `waiting` was posted.
    waiting_since_ms: i64,
    outbox: VecDeque<Batch>,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    accepted_to: u64,
    released: SeqSet,
    link: Link,
    centre: Option<Centre>,
    window: usize,
    /// No offer before this; after refusals, and after the intake opened again.
    quiet_until_ms: i64,
    refused_in_a_row: u32,
    statements: u64,
    heartbeat_at_ms: i64,
    receipt_time_ms: i64,
    receipt_times: Vec<i64>,
    jitter: u64,
    last_post_ms: Option<i64>,
}

impl Unit {
    /// A unit that posts `traffic` as it happens.
    #[must_use]
    pub fn live(stream: StreamId, habits: Habits, traffic: Traffic) -> Self {
        Self::new(stream, habits, Some(traffic), VecDeque::new())
    }

    /// A unit whose batches were made beforehand; they count as posted.
    #[must_use]
    pub fn prepared(stream: StreamId, habits: Habits, batches: Vec<Batch>) -> Self {
        let posted = batches.iter().map(|batch| batch.range.count()).sum();
        let accepted_to = batches.last().map_or(0, |batch| batch.range.last().get());
        let mut unit = Self::new(stream, habits, None, batches.into());
        unit.counts.posted = posted;
        unit.accepted_to = accepted_to;
        unit
    }

    fn new(
        stream: StreamId,
        habits: Habits,
        traffic: Option<Traffic>,
        outbox: VecDeque<Batch>,
    ) -> Self {
        Self {
            stream,
            habits,
            traffic,
            counts: Counts::default(),
            waiting: PassageBatch::new(),
            waiting_since_ms: 0,
            outbox,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            accepted_to: 0,
            released: SeqSet::new(),
            link: Link::Down,
            centre: None,
            window: IN_FLIGHT_BATCHES_MAX,
            quiet_until_ms: 0,
            refused_in_a_row: 0,
            statements: 0,
            heartbeat_at_ms: 0,
            receipt_time_ms: 0,
            receipt_times: Vec::new(),
            jitter: habits.seed,
            last_post_ms: None,
        }
    }

    /// Its stream.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// What became of its passages so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether everything posted was receipted or refused for ever.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.outbox.is_empty() && self.in_flight.is_empty()
    }

    /// From each post to the arrival of its receipt, since the last call, in milliseconds.
    pub fn take_receipt_times(&mut self) -> std::vec::Drain<'_, i64> {
        self.receipt_times.drain(..)
    }

    /// No vehicle comes any more; what waits for company leaves at the next chance.
    pub fn close_road(&mut self) {
        self.traffic = None;
    }

    /// Connected and subscribed. What was in flight is offered again once the owner is heard.
    pub fn connected(&mut self, now_ms: i64) {
        self.link = Link::Up(None);
        self.heartbeat_at_ms = now_ms;
        self.take_back_all();
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.link = Link::Down;
        self.take_back_all();
    }

    /// A frame from the centre, off either topic.
    pub fn hear(&mut self, now_ms: i64, frame: &[u8]) {
        match Down::decode(frame) {
            Ok(Down::Receipt(receipt)) => self.hear_receipt(now_ms, &receipt),
            Ok(Down::Refusal(refusal)) => self.hear_refusal(now_ms, &refusal),
            Ok(Down::Beacon(beacon)) => self.hear_beacon(now_ms, &beacon),
            Err(_) => self.counts.unreadable += 1,
        }
    }

    /// Lets the vehicles pass that came until now, cuts batches that are due, and puts into
    /// `publish` the frames that may leave. `cut` sees each batch before any frame holds it.
    ///
    /// Returns when to call again if nothing is heard before. A unit that posts faster than a batch
    /// within the linger cuts its full batches at that moment, not at their own.
    pub fn advance(
        &mut self,
        now_ms: i64,
        may_offer: bool,
        publish: &mut Vec<Bytes>,
        mut cut: impl FnMut(Cut<'_>),
    ) -> i64 {
        self.post(now_ms, &mut cut);
        if !self.waiting.is_empty() && self.is_due(now_ms) {
            self.cut(&mut cut);
        }
        if let Link::Up(owner) = self.link {
            if let Some(owner) = owner.filter(|_| may_offer) {
                self.take_back_overdue(now_ms);
                self.offer(now_ms, owner, publish);
            }
            if now_ms >= self.heartbeat_at_ms {
                self.heartbeat_at_ms = now_ms + HEARTBEAT_MS;
                let frame = self.heartbeat(now_ms);
                publish.push(frame);
            }
        }
        self.wake_at_ms(now_ms, may_offer)
    }

    /// When something is to be done next, if nothing is heard before; always after `now_ms`.
    fn wake_at_ms(&self, now_ms: i64, may_offer: bool) -> i64 {
        let mut wake = i64::MAX;
        let online = self.link != Link::Down;
        if self.waiting.is_empty() {
            let traffic = self.traffic.as_ref().filter(|_| self.has_room());
            let next = traffic.map(|traffic| traffic.next_at().as_millis());
            wake = next.map_or(wake, |next| next.saturating_add(self.habits.linger_ms));
        } else if online {
            wake = self.waiting_since_ms + self.habits.linger_ms;
        }
        if online {
            wake = wake.min(self.heartbeat_at_ms);
        }
        if online && may_offer {
            if let Some(oldest) = self.in_flight.front() {
                wake = wake.min(oldest.offered_ms + self.resend_ms());
            }
            if !self.outbox.is_empty() && self.quiet_until_ms > now_ms {
                wake = wake.min(self.quiet_until_ms);
            }
        }
        wake.max(now_ms + 1)
    }

    fn post(&mut self, now_ms: i64, cut: &mut impl FnMut(Cut<'_>)) {
        while self.has_room() {
            let Some(traffic) = &mut self.traffic else {
                return;
            };
            if traffic.next_at().as_millis() > now_ms {
                return;
            }
            let mut passage = traffic.next_passage();
            passage.plate = self.habits.plates.keep(passage.plate, self.habits.seed);
            if self.waiting.is_empty() {
                self.waiting_since_ms = passage.event_time.as_millis();
            }
            self.last_post_ms = Some(passage.event_time.as_millis());
            self.waiting.push(&passage);
            self.accepted_to += 1;
            self.counts.posted += 1;
            if self.waiting.len() >= self.habits.batch_passages {
                self.cut(cut);
            }
        }
    }

    fn has_room(&self) -> bool {
        let settled = self.counts.receipted + self.counts.refused;
        self.counts.posted - settled < self.habits.backlog_passages_max
    }

    /// Offline there is nothing to hurry for: batches fill up.
    fn is_due(&self, now_ms: i64) -> bool {
        let closing = self.traffic.is_none();
        let online = self.link != Link::Down;
        closing || (online && now_ms >= self.waiting_since_ms + self.habits.linger_ms)
    }

    fn cut(&mut self, cut: &mut impl FnMut(Cut<'_>)) {
        let passages = std::mem::take(&mut self.waiting);
        let count = passages.len() as u64;
        let first = Seq::new(self.accepted_to + 1 - count);
        let range = first
            .ok()
            .and_then(|first| SeqRange::from_count(first, count).ok());
        let (Some(range), Some((oldest, _))) = (range, passages.event_span()) else {
            return;
        };
        cut(Cut {
            range,
            passages: &passages,
        });
        let posted_ms = (0..passages.len())
            .map(|place| passages.event_time(place).as_millis())
            .collect();
        let content = Content::Passages(Box::new(passages));
        self.outbox.push_back(Batch {
            range,
            oldest,
            content,
            posted_ms,
            offers: 0,
        });
    }

    /// Full jitter: anywhere from 0 to the limit.
    pub(super) fn jitter_below(&mut self, limit_ms: i64) -> i64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        i64::try_from(mix(self.jitter) >> 1).unwrap_or(0) % limit_ms.max(1)
    }
}

#[cfg(test)]
mod tests;
