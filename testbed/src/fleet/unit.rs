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

use std::collections::VecDeque;

use bytes::Bytes;
use proto::frame::{Down, Up};
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::{IN_FLIGHT_BATCHES_MAX, IN_FLIGHT_BYTES_MAX};
use proto::receipt::{Beacon, Centre, Intake, Receipt, Refusal, RefusalClass};
use proto::{EventTime, PassageBatch, Plate, Seq, SeqRange, SeqSet, StreamId};

use super::traffic::Traffic;

/// Without a receipt for this long, a batch is sent again, or for [`RESEND_RECEIPTS`] receipt times.
const RESEND_MS_MIN: i64 = 30_000;
const RESEND_RECEIPTS: i64 = 4;
/// How often a unit speaks of itself.
const HEARTBEAT_MS: i64 = 60_000;
/// Between two probes of a closed intake.
const PROBE_MS: i64 = 10_000;
/// When the intake opens again, units come back spread over this time.
const REOPEN_JITTER_MS: i64 = 10_000;
/// First wait after a refusal; doubles with each further one.
const REFUSED_MS_MIN: i64 = 1_000;
const REFUSED_MS_MAX: i64 = 60_000;
/// The store of a simulated unit was started once.
const RUN: u32 = 1;

/// What a unit does with plates before it keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plates {
    /// Keeps them as read.
    Kept,
    /// Replaces them by eight bytes that look like a keyed hash: incompressible, equal for equal
    /// plates.
    Hashed,
    /// Drops them.
    Dropped,
}

impl Plates {
    /// The plate as it is kept.
    #[must_use]
    pub fn keep(self, read: Plate, key: u64) -> Plate {
        match (self, read) {
            (Self::Kept, read) => read,
            (Self::Hashed, Plate::Text(text)) => Plate::Hash(scramble(text.as_str(), key)),
            (Self::Hashed, read) => read,
            (Self::Dropped, _) => Plate::Absent,
        }
    }
}

/// Not a secret hash, only one with the statistics of it (FNV-1a, then a finaliser).
fn scramble(text: &str, key: u64) -> [u8; 8] {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ key, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    mix(hash).to_be_bytes()
}

/// The finaliser of SplitMix64: any pattern in, none out.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

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

/// A run of passages in one message.
#[derive(Debug)]
pub struct Batch {
    range: SeqRange,
    oldest: EventTime,
    content: Content,
    /// When each was posted, by the unit's clock; empty where nobody asks.
    posted_ms: Box<[i64]>,
    offers: u32,
}

#[derive(Debug)]
enum Content {
    Passages(Box<PassageBatch>),
    Frame(Bytes),
}

impl Batch {
    /// A batch whose frame was made beforehand.
    #[must_use]
    pub fn from_frame(range: SeqRange, oldest: EventTime, frame: Bytes) -> Self {
        Self {
            range,
            oldest,
            content: Content::Frame(frame),
            posted_ms: Box::default(),
            offers: 0,
        }
    }
}

/// A batch as it is cut, for whoever recomputes.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    /// Numbers of its passages.
    pub range: SeqRange,
    /// The passages, in the order of their numbers.
    pub passages: &'a PassageBatch,
}

#[derive(Debug)]
struct InFlight {
    batch: Batch,
    offered_ms: i64,
    bytes: usize,
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

    fn offer(&mut self, now_ms: i64, owner: Owner, publish: &mut Vec<Bytes>) {
        let window = match owner.intake {
            Intake::Open => self.window,
            Intake::Closed => 1,
        };
        while now_ms >= self.quiet_until_ms && self.in_flight.len() < window {
            let Some(mut batch) = self.outbox.pop_front() else {
                return;
            };
            let frame = self.frame_of(&batch, now_ms);
            let bytes = frame.len();
            if !self.in_flight.is_empty() && self.in_flight_bytes + bytes > IN_FLIGHT_BYTES_MAX {
                batch.content = Content::Frame(frame);
                self.outbox.push_front(batch);
                return;
            }
            self.counts.offered_batches += 1;
            self.counts.resent_batches += u64::from(batch.offers > 0);
            batch.offers += 1;
            batch.content = Content::Frame(frame.clone());
            publish.push(frame);
            self.in_flight_bytes += bytes;
            self.in_flight.push_back(InFlight {
                batch,
                offered_ms: now_ms,
                bytes,
            });
            if owner.intake == Intake::Closed {
                self.quiet_until_ms = now_ms + PROBE_MS;
            }
        }
    }

    /// The frame of a batch; made at its first offer, because the frontier is taken at publish.
    fn frame_of(&mut self, batch: &Batch, now_ms: i64) -> Bytes {
        match &batch.content {
            Content::Frame(frame) => frame.clone(),
            Content::Passages(passages) => {
                let oldest = self
                    .oldest()
                    .map_or(batch.oldest, |oldest| oldest.min(batch.oldest));
                let count = u32::try_from(batch.range.count()).unwrap_or(u32::MAX);
                let header = self.header(batch.range.first(), count, Some(oldest), now_ms);
                Up::Passages(PassageBatch::clone(passages))
                    .encode(&header)
                    .into()
            }
        }
    }

    fn header(
        &mut self,
        first: Seq,
        count: u32,
        oldest: Option<EventTime>,
        now_ms: i64,
    ) -> UpHeader {
        self.statements += 1;
        let clock = EventTime::from_millis(now_ms - self.habits.camera_delay_max_ms);
        UpHeader {
            stream: self.stream,
            first,
            count,
            accepted_to: self.accepted_to,
            frontier: Frontier {
                before: oldest.map_or(clock, |oldest| oldest.min(clock)),
                run: RUN,
                counter: self.statements,
            },
            sent_at: EventTime::from_millis(now_ms),
        }
    }

    /// The oldest event time without a receipt.
    fn oldest(&self) -> Option<EventTime> {
        let waiting = self.waiting.event_span().map(|(oldest, _)| oldest);
        let outbox = self.outbox.iter().map(|batch| batch.oldest);
        let in_flight = self.in_flight.iter().map(|sent| sent.batch.oldest);
        outbox.chain(in_flight).chain(waiting).min()
    }

    fn heartbeat(&mut self, now_ms: i64) -> Bytes {
        let passages = self.counts.posted - self.counts.receipted - self.counts.refused;
        let oldest = self.oldest();
        let bytes = passages * std::mem::size_of::<proto::Passage>() as u64;
        let heartbeat = Heartbeat {
            held: vec![HeldStream {
                stream: self.stream,
                accepted_to: self.accepted_to,
                released: self.released.clone(),
            }],
            backlog: Backlog {
                passages,
                bytes,
                oldest,
            },
            camera: self.last_post_ms.map_or(CameraLink::Unknown, |ms| {
                CameraLink::LastPostAt(EventTime::from_millis(ms))
            }),
            clock_offset_ms: None,
            agent_version: concat!("simulated ", env!("CARGO_PKG_VERSION")).to_owned(),
            disk: Disk::default(),
        };
        let header = self.header(Seq::FIRST, 0, oldest, now_ms);
        Up::Heartbeat(heartbeat).encode(&header).into()
    }

    fn hear_receipt(&mut self, now_ms: i64, receipt: &Receipt) {
        if self
            .centre
            .is_some_and(|pinned| pinned.id != receipt.centre.id)
        {
            return;
        }
        self.centre = Some(receipt.centre);
        let mine = receipt
            .streams
            .iter()
            .filter(|entry| entry.stream == self.stream);
        for entry in mine {
            self.released = entry.stored.union(&entry.lost);
        }
        let mut settled = false;
        let mut place = 0;
        while place < self.in_flight.len() {
            if !self
                .released
                .contains_range(self.in_flight[place].batch.range)
            {
                place += 1;
                continue;
            }
            settled = true;
            if let Some(sent) = self.forget(place) {
                self.counts.receipted += sent.batch.range.count();
                let took_ms = (now_ms - sent.offered_ms).max(0);
                // TCP's smoothing (RFC 6298): an eighth of each new sample.
                self.receipt_time_ms += (took_ms - self.receipt_time_ms) / 8;
                self.receipt_times
                    .extend(sent.batch.posted_ms.iter().map(|ms| now_ms - ms));
            }
        }
        // What was taken back and then receipted after all need not go again.
        let released = &self.released;
        let receipted = &mut self.counts.receipted;
        self.outbox.retain(|batch| {
            let done = batch.offers > 0 && released.contains_range(batch.range);
            *receipted += if done { batch.range.count() } else { 0 };
            !done
        });
        if settled {
            self.refused_in_a_row = 0;
            self.window = (self.window * 2).min(IN_FLIGHT_BATCHES_MAX);
        }
    }

    fn hear_refusal(&mut self, now_ms: i64, refusal: &Refusal) {
        self.counts.refusals += 1;
        if refusal.stream != self.stream {
            return;
        }
        let place = self
            .in_flight
            .iter()
            .position(|sent| refusal.range.is_some_and(|range| range == sent.batch.range));
        let Some(sent) = place.and_then(|place| self.forget(place)) else {
            return;
        };
        match refusal.class {
            RefusalClass::Never => self.counts.refused += sent.batch.range.count(),
            // There is no other form than raw to offer it in: again, later.
            RefusalClass::Later | RefusalClass::Reshape => {
                let at = self
                    .outbox
                    .partition_point(|batch| batch.range < sent.batch.range);
                self.outbox.insert(at, sent.batch);
                let doubled = REFUSED_MS_MIN << self.refused_in_a_row.min(6);
                let wait = self.jitter_below(doubled.min(REFUSED_MS_MAX));
                self.refused_in_a_row += 1;
                self.quiet_until_ms = now_ms + wait;
            }
        }
    }

    fn hear_beacon(&mut self, now_ms: i64, beacon: &Beacon) {
        let Link::Up(before) = self.link else { return };
        let pinned = *self.centre.get_or_insert(beacon.centre);
        if pinned.id != beacon.centre.id {
            return;
        }
        let owner = Owner {
            token: beacon.token,
            intake: beacon.intake,
        };
        if before.is_some_and(|before| before.token > owner.token) {
            return;
        }
        self.link = Link::Up(Some(owner));
        let opened = owner.intake == Intake::Open
            && before.is_some_and(|before| before.intake == Intake::Closed);
        if opened {
            self.window = 1;
            self.quiet_until_ms = now_ms + self.jitter_below(REOPEN_JITTER_MS);
        }
        if before.is_none_or(|before| before.token != owner.token) {
            self.take_back_all();
        }
    }

    fn resend_ms(&self) -> i64 {
        RESEND_MS_MIN.max(RESEND_RECEIPTS * self.receipt_time_ms)
    }

    fn take_back_overdue(&mut self, now_ms: i64) {
        let limit = self.resend_ms();
        if self
            .in_flight
            .front()
            .is_some_and(|sent| now_ms - sent.offered_ms >= limit)
        {
            self.take_back_all();
        }
    }

    fn take_back_all(&mut self) {
        while let Some(sent) = self.in_flight.pop_back() {
            self.outbox.push_front(sent.batch);
        }
        self.in_flight_bytes = 0;
    }

    fn forget(&mut self, place: usize) -> Option<InFlight> {
        let sent = self.in_flight.remove(place)?;
        self.in_flight_bytes -= sent.bytes;
        Some(sent)
    }

    /// Full jitter: anywhere from 0 to the limit.
    pub(super) fn jitter_below(&mut self, limit_ms: i64) -> i64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        i64::try_from(mix(self.jitter) >> 1).unwrap_or(0) % limit_ms.max(1)
    }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
