//! The uplink's mind: what is sent when, what a receipt frees, when the link is tried again. Pure.
//!
//! ```text
//!            buffer state, loaded runs                  connected, receipts, refusals, beacons
//!  buffer ─────────────────────────────► [ machine ] ◄──────────────────────────────── link
//!         ◄───────────────────────────── commands ────────────────────────────────────►
//!            read, receipt, refused                     connect, publish, heartbeat
//! ```
//! The shell (`driver`) feeds [`Input`]s with the monotonic time, carries out the [`Command`]s in
//! order, and calls again with [`Input::Tick`] at [`Machine::timeout`].
//!
//! Invariants
//! 1. Only numbers that the buffer calls durable and unsent are read; what is published was read.
//! 2. A number is in at most one message ([`super::flight`]) and in at most one place
//!    ([`super::lanes`]).
//! 3. Nothing is freed here: a receipt of the unit's own centre in its present life is handed to the
//!    buffer, every other word is dropped. No acknowledgement of the broker means anything.
//! 4. Everything unanswered is sent again: after a deadline, on a new link, for a new owner.
//! 5. A late backlog goes ahead as summaries ([`super::folding`]): none of it leaves raw before they
//!    have left, and what they stand for not before they are answered. None of that lasts for ever.

mod notes;
mod refusals;
mod sending;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;

use proto::limits::FRAME_BYTES_MAX;
use proto::receipt::Centre;
use proto::{SeqRange, StreamId};

use super::allowance::Allowed;
use super::backoff::{Jitter, Millis};
use super::cap::Cap;
use super::centre::Allegiance;
use super::exchange::{Command, Input, LinkState, Pace, Tally};
use super::flight::{Flight, MESSAGES_MAX, MessageId, Phase};
use super::folding::Folding;
use super::gate::{Gate, Shut};
use super::lanes::Queue;
use super::notes::Notes;
use super::rate::{Kind, Rate};
use super::share::Share;
use crate::buffer::BufferState;

/// What a passage weighs in a frame before the first was made.
const BYTES_PER_PASSAGE_FIRST: u64 = 12;

/// See the module.
#[derive(Debug, Clone)]
pub struct Machine {
    pace: Pace,
    jitter: Jitter,
    link: LinkState,
    link_failures: u32,
    room: bool,
    allegiance: Allegiance,
    /// The build of the centre that spoke last.
    build: Option<Arc<str>>,
    /// How old a window may be that takes summaries, as the centre said last.
    summaries_age_max_ms: Option<u64>,
    gate: Gate,
    /// Whether messages could leave when the machine looked last.
    flows: bool,
    /// The run of the buffer that spoke last.
    run: u32,
    queues: Vec<Queue>,
    flight: Flight,
    folding: Folding,
    notes: Notes,
    /// What the link takes.
    rate: Rate,
    share: Share,
    /// What the owner's rules allow: a rate, and what may travel at all.
    allowed_rate: Cap,
    allowed: Allowed,
    /// Smoothed bytes of a passage in a frame, in sixteenths.
    bytes_per_passage_16ths: u64,
    heartbeat_at: Millis,
    last_receipt: Option<Millis>,
    /// Whether the centre corrected something when it spoke last.
    is_corrected: bool,
    tally: Tally,
    commands: VecDeque<Command>,
}

impl Machine {
    /// Down, to be connected at the first tick. `pinned` is the centre that the buffer knows.
    #[must_use]
    pub fn new(pace: Pace, pinned: Option<Centre>, jitter: Jitter) -> Self {
        Self {
            pace,
            jitter,
            link: LinkState::Down { retry_at: 0 },
            link_failures: 0,
            room: true,
            allegiance: Allegiance::new(pinned),
            build: None,
            summaries_age_max_ms: None,
            flows: false,
            gate: Gate::new(MESSAGES_MAX, pace.probe, pace.open_jitter_ms),
            run: 0,
            queues: Vec::new(),
            flight: Flight::new(pace.resend),
            folding: Folding::default(),
            notes: Notes::default(),
            rate: Rate::default(),
            share: Share::new(pace.backlog_share_percent),
            allowed_rate: Cap::new(pace.rate_bytes_per_s_max),
            allowed: Allowed::Everything,
            bytes_per_passage_16ths: 16 * BYTES_PER_PASSAGE_FIRST,
            heartbeat_at: 0,
            last_receipt: None,
            is_corrected: false,
            tally: Tally::default(),
            commands: VecDeque::new(),
        }
    }

    /// Takes something in. Whatever it leads to waits in [`Machine::poll`].
    pub fn handle(&mut self, now: Millis, input: Input) {
        match input {
            Input::Tick => {}
            Input::Buffer(state) => self.observe(now, &state),
            Input::Subscribed => self.subscribed(now),
            Input::Lost => self.lost(now),
            Input::Acknowledged { bytes } => {
                self.room = true;
                self.rate.acknowledge(now, bytes);
            }
            Input::Said { bytes } => {
                self.rate.hand(now, Kind::Note, bytes);
                self.allowed_rate.spend(now, bytes);
            }
            Input::Allowed(allowed) => self.allowed = allowed,
            Input::Loaded { id, range, bytes } => self.loaded(id, range, bytes),
            Input::Absent { id } => self.absent(id),
            Input::NotPublished { id } => self.not_published(id),
            Input::SummarySent {
                stream,
                claimed,
                seqs,
                entries,
            } => {
                let overdue_at = now + self.flight.resend_timeout_ms();
                self.notes
                    .summary_sent(stream, claimed, seqs, entries, overdue_at);
            }
            Input::Folded(folded) => self.folded(folded),
            Input::SummaryGivenUp => self.notes.given_up(),
            Input::SummaryAbsent(stream) => self.notes.summary_absent(stream),
            Input::SummaryNotSent => {
                self.room = false;
                self.notes.summary_unsent();
            }
            Input::Receipt(receipt) => self.receipt(now, receipt),
            Input::Refusal(refusal) => self.refusal(now, &refusal),
            Input::Beacon(beacon) => self.beacon(now, &beacon),
        }
        self.pump(now);
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call again with [`Input::Tick`] if nothing happens before.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        match self.link {
            LinkState::Down { retry_at } => Some(retry_at),
            LinkState::Connecting => None,
            LinkState::Up => {
                let queues = self.queues.iter();
                let events = queues.filter_map(|q| q.timeout(now, self.pace.event_wait_ms));
                let events = events
                    .chain(self.gate.timeout(now))
                    .chain(self.flight.timeout());
                events
                    .chain(self.notes.timeout(now))
                    .chain(self.allowed_rate.timeout(now))
                    .chain([self.heartbeat_at])
                    .min()
            }
        }
    }

    /// Whether the centre can be reached.
    #[must_use]
    pub const fn link(&self) -> LinkState {
        self.link
    }

    /// Why nothing but probes may leave although the link is up.
    #[must_use]
    pub const fn why_shut(&self) -> Option<Shut> {
        self.gate.why_shut()
    }

    /// Whether messages may leave as they come.
    #[must_use]
    pub const fn flows(&self) -> bool {
        self.flows
    }

    /// When the last receipt came.
    #[must_use]
    pub const fn last_receipt(&self) -> Option<Millis> {
        self.last_receipt
    }

    /// The messages without an answer.
    #[must_use]
    pub const fn flight(&self) -> &Flight {
        &self.flight
    }

    /// What the link takes, as far as it is known.
    #[must_use]
    pub const fn rate(&self) -> &Rate {
        &self.rate
    }

    /// How long the answers took that came since the last call.
    pub fn take_answer_times(&mut self) -> Vec<Millis> {
        self.flight.take_answer_times()
    }

    /// What the machine can tell of itself.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    fn observe(&mut self, now: Millis, state: &BufferState) {
        let (batch_passages, wait) = (self.pace.batch_passages, self.pace.event_wait_ms);
        let known = |queue: &Queue| state.streams.iter().any(|stream| stream.id == queue.stream);
        self.queues.retain(known);
        if std::mem::replace(&mut self.run, state.run) != state.run {
            self.queues.iter_mut().for_each(Queue::reopened);
            self.notes.reopened();
        }
        for (place, stream) in state.streams.iter().enumerate() {
            let at = self
                .queues
                .iter()
                .position(|queue| queue.stream == stream.id);
            let mut queue = at.map_or_else(
                || Queue::new(stream.id, batch_passages),
                |at| self.queues.remove(at),
            );
            queue.observe(now, stream, wait, self.flight.ranges_of(stream.id));
            self.queues.insert(place.min(self.queues.len()), queue);
        }
        self.notes.observe(state);
    }

    fn subscribed(&mut self, now: Millis) {
        self.link = LinkState::Up;
        self.link_failures = 0;
        self.room = true;
        self.tally.links += 1;
        self.gate.subscribed(now);
        self.rate.connected(now);
        self.flight.age();
        self.queues.iter_mut().for_each(Queue::connected);
        self.heartbeat_at = now;
    }

    fn lost(&mut self, now: Millis) {
        self.link_failures = self.link_failures.saturating_add(1);
        self.tally.link_losses += 1;
        let wait = self
            .pace
            .reconnect
            .wait_ms(self.link_failures, &mut self.jitter);
        self.link = LinkState::Down {
            retry_at: now + wait,
        };
        self.flows = false;
        self.folding.stop();
        self.lose_all();
    }

    /// Whatever is on its way may never arrive.
    fn lose_all(&mut self) {
        self.commands
            .extend(self.flight.lose_all().into_iter().map(Command::Forget));
        self.notes.lose_all();
    }

    fn loaded(&mut self, id: MessageId, range: SeqRange, bytes: usize) {
        let up = self.link == LinkState::Up;
        let open = self.gate.why_shut().is_none();
        let Some(message) = self.flight.get_mut(id) else {
            return self.commands.push_back(Command::Forget(id));
        };
        let stream = message.stream;
        let seen = 16 * bytes as u64 / range.count();
        self.bytes_per_passage_16ths = (7 * self.bytes_per_passage_16ths + seen).div_ceil(8).max(1);
        if bytes > FRAME_BYTES_MAX && range.count() > 1 {
            let half = SeqRange::from_count(range.first(), range.count() / 2);
            message.range = half.unwrap_or(range);
            message.phase = Phase::Due;
            self.commands.push_back(Command::Forget(id));
        } else if up && (open || message.probe) {
            message.range = range;
            message.phase = Phase::Ready { bytes };
        } else {
            message.phase = Phase::Due;
            self.commands.push_back(Command::Forget(id));
        }
        self.refresh(stream);
    }

    /// The buffer has other numbers than it said: its next word decides about these.
    fn absent(&mut self, id: MessageId) {
        if let Some(message) = self.flight.remove(id)
            && let Some(queue) = self.queues.iter_mut().find(|q| q.stream == message.stream)
        {
            queue.withhold(message.range);
        }
    }

    fn not_published(&mut self, id: MessageId) {
        self.room = false;
        if let Some(message) = self.flight.get_mut(id)
            && let Phase::Sent { bytes, .. } = message.phase
        {
            message.phase = Phase::Ready { bytes };
            message.sendings -= 1;
            self.rate.take_back(bytes);
            self.allowed_rate.take_back(bytes);
            self.tally.messages_sent -= 1;
            self.tally.messages_resent -= u64::from(message.sendings > 0);
            self.tally.passages_sent -= message.range.count();
        }
    }

    /// Takes a message apart: its numbers are pending again, unless the buffer says otherwise.
    fn drop_message(&mut self, id: MessageId) {
        if let Some(message) = self.flight.remove(id) {
            if matches!(message.phase, Phase::Ready { .. }) {
                self.commands.push_back(Command::Forget(id));
            }
            self.refresh(message.stream);
        }
    }

    fn refresh(&mut self, stream: StreamId) {
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.stream == stream) {
            queue.refresh(self.flight.ranges_of(stream));
        }
    }

    /// Starts whatever may start now.
    fn pump(&mut self, now: Millis) {
        match self.link {
            LinkState::Down { retry_at } if retry_at <= now => {
                self.link = LinkState::Connecting;
                self.commands.push_back(Command::Connect);
            }
            LinkState::Down { .. } | LinkState::Connecting => {}
            LinkState::Up => {
                self.rate.tick(now);
                self.expire(now);
                self.fold(now);
                self.start(now);
                self.probe(now);
                self.say(now);
                self.publish(now);
            }
        }
    }

    fn expire(&mut self, now: Millis) {
        for (_, message) in self.flight.expire(now) {
            self.tally.suspects += 1;
            if let Some(queue) = self.queues.iter_mut().find(|q| q.stream == message.stream) {
                queue.suspect(message.range);
            }
        }
        // What the buffer or a receipt has cut in the meantime is put together anew.
        let due = self
            .flight
            .iter()
            .filter(|(_, message)| message.phase == Phase::Due);
        let cut: Vec<_> = due
            .filter(|(_, m)| {
                let queue = self.queues.iter().find(|queue| queue.stream == m.stream);
                !queue.is_some_and(|queue| queue.is_wanted(m.range))
            })
            .map(|(id, _)| id)
            .collect();
        cut.into_iter().for_each(|id| self.drop_message(id));
    }
}

#[cfg(test)]
mod pace_tests;
#[cfg(test)]
pub(super) mod tests;
