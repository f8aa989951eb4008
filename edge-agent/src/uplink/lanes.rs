//! What of each stream waits to be sent, and which of it goes next. Pure.
//!
//! Lanes
//! - **live**: what the stream of this run accepted since the link came up. Goes first, so that
//!   the centre sees the present while an outage is made up for.
//! - **backlog**: everything older, oldest stream first, in the bandwidth that live leaves and in a
//!   share that live cannot take. What the windows lack goes before what summaries brought to them.
//! - **suspect**: passages whose messages stayed unanswered again and again while others were
//!   answered. They go last, alone, in ever smaller pieces.
//!
//! Invariant: a number is pending, suspect, or in one message, never in two of them.

use std::collections::VecDeque;

use proto::StreamId;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::StreamReceipt;

use super::backoff::Millis;
use crate::buffer::StreamState;

/// Ranges of a stream's cursor from which on nothing jumps the queue any more: each outage during
/// a drain adds one, and a receipt carries at most [`proto::limits::RANGES_MAX`].
const LIVE_FIRST_RANGES_MAX: usize = 16;

/// Steps in which the age of the youngest passages is remembered, per wait.
const ARRIVAL_STEPS: Millis = 16;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Accepted since the link came up.
    Live,
    /// Older.
    Backlog,
    /// Unanswered too often.
    Suspect,
}

/// What waits of one stream.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Which stream.
    pub stream: StreamId,
    /// The durable mark.
    pub accepted_to: u64,
    /// Passages in its next messages: the configured number, less after a message was too large.
    pub batch_passages: u64,
    /// Nothing of it leaves before this time: the centre asked to wait.
    pub paused_until: Millis,
    /// How often in a row it asked.
    pub pauses: u32,
    current: bool,
    unsent: SeqSet,
    /// A summary stands for them that waits for its receipt.
    summed: SeqSet,
    /// The windows have them.
    counted: SeqSet,
    /// What receipts said of their passages.
    stored: SeqSet,
    lost: SeqSet,
    /// Offered anew after a refusal: that they were booked as lost settles nothing.
    again: SeqSet,
    /// What follows from these three.
    settled: SeqSet,
    /// Refused for ever; the buffer is moving them aside.
    given_up: SeqSet,
    /// The buffer did not have them when asked; its next word decides.
    withheld: SeqSet,
    pending: SeqSet,
    suspects: VecDeque<SeqRange>,
    /// Numbers from here on are live.
    live_from: u64,
    arrivals: Arrivals,
}

impl Queue {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(stream: StreamId, batch_passages: u64) -> Self {
        Self {
            stream,
            accepted_to: 0,
            batch_passages,
            paused_until: 0,
            pauses: 0,
            current: false,
            unsent: SeqSet::new(),
            summed: SeqSet::new(),
            counted: SeqSet::new(),
            stored: SeqSet::new(),
            lost: SeqSet::new(),
            again: SeqSet::new(),
            settled: SeqSet::new(),
            given_up: SeqSet::new(),
            withheld: SeqSet::new(),
            pending: SeqSet::new(),
            suspects: VecDeque::new(),
            live_from: 1,
            arrivals: Arrivals::default(),
        }
    }

    /// Takes over what the buffer says, except what is settled meanwhile or `travelling` in
    /// messages.
    pub fn observe(
        &mut self,
        now: Millis,
        state: &StreamState,
        event_wait_ms: Millis,
        travelling: impl Iterator<Item = SeqRange>,
    ) {
        if state.accepted_to > self.accepted_to {
            self.accepted_to = state.accepted_to;
            self.arrivals
                .note(now, state.accepted_to, event_wait_ms / ARRIVAL_STEPS);
        }
        self.current = state.current;
        self.unsent.clone_from(&state.unsent);
        self.summed.clone_from(&state.summed);
        self.counted = self.counted.union(&state.counted);
        self.again.clone_from(&state.again);
        self.resettle();
        // What came back into line may have been aside between two looks at the buffer.
        self.given_up = self
            .given_up
            .intersection(&self.unsent)
            .difference(&self.again);
        self.withheld = SeqSet::new();
        self.refresh(travelling);
    }

    /// Takes over a committed cursor.
    pub fn settle(&mut self, receipt: &StreamReceipt) {
        if receipt.afresh {
            self.unsettle();
        }
        self.counted = self.counted.union(&receipt.counted);
        self.stored = self.stored.union(&receipt.stored);
        self.lost = self.lost.union(&receipt.lost);
        self.resettle();
        self.pending = self.pending.difference(&self.settled);
        self.trim_suspects();
    }

    /// These are the buffer's to move aside.
    pub fn give_up(&mut self, range: SeqRange) {
        self.given_up.insert(range);
        self.pending.remove(range);
    }

    /// The buffer did not have these when asked.
    pub fn withhold(&mut self, range: SeqRange) {
        self.withheld.insert(range);
    }

    /// Forgets all receipts: the centre that gave them was put back in time.
    pub fn unsettle(&mut self) {
        self.counted = SeqSet::new();
        (self.stored, self.lost) = (SeqSet::new(), SeqSet::new());
        self.resettle();
    }

    /// The store failed and was opened again: what the buffer was told and had not made durable it has
    /// forgotten, and it alone knows what it still holds.
    pub fn reopened(&mut self) {
        self.given_up = SeqSet::new();
        self.unsettle();
    }

    fn resettle(&mut self) {
        self.settled = self.stored.union(&self.lost.difference(&self.again));
    }

    /// Works out again what is pending.
    pub fn refresh(&mut self, travelling: impl Iterator<Item = SeqRange>) {
        self.trim_suspects();
        let mut pending = self.wanted().difference(&self.withheld);
        travelling
            .chain(self.suspects.iter().copied())
            .for_each(|range| pending.remove(range));
        self.pending = pending;
    }

    /// What has to reach the centre now, wherever it is.
    fn wanted(&self) -> SeqSet {
        self.unsent
            .difference(&self.summed)
            .difference(&self.settled)
            .difference(&self.given_up)
    }

    fn trim_suspects(&mut self) {
        if self.suspects.is_empty() {
            return;
        }
        let wanted = self.wanted();
        let kept = self
            .suspects
            .iter()
            .flat_map(|suspect| wanted.intersection(&(*suspect).into()).ranges().to_vec());
        self.suspects = kept.collect();
    }

    /// The link is up: what was accepted before now is backlog from here on.
    pub fn connected(&mut self) {
        if self.settled.range_count() < LIVE_FIRST_RANGES_MAX {
            self.live_from = self.accepted_to + 1;
        }
    }

    /// Whether anything is to be sent, now or after its summary.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Everything up to this number is backlog.
    pub fn aged(&mut self, to: u64) {
        if self.settled.range_count() < LIVE_FIRST_RANGES_MAX {
            self.live_from = self.live_from.max(to + 1);
        }
    }

    /// The next run of a lane that may leave now, cut to what the link asks for.
    #[must_use]
    pub fn next(
        &self,
        now: Millis,
        lane: Lane,
        event_wait_ms: Millis,
        passages_max: u64,
    ) -> Option<SeqRange> {
        if now < self.paused_until {
            return None;
        }
        match lane {
            Lane::Live if !self.current => None,
            Lane::Live => {
                let run = self.run_from(&self.pending, self.live_from, passages_max)?;
                let full = run.count() >= self.batch_passages.min(passages_max);
                let due = self.arrivals.due_to(now, event_wait_ms) >= run.first().get();
                (full || due).then_some(run)
            }
            Lane::Backlog => self
                .next_backlog(now, false, passages_max)
                .or_else(|| self.next_backlog(now, true, passages_max)),
            Lane::Suspect => self.suspects.front().copied(),
        }
    }

    /// The next run of the backlog of those that are counted, or of those that are not.
    #[must_use]
    pub fn next_backlog(&self, now: Millis, counted: bool, passages_max: u64) -> Option<SeqRange> {
        if now < self.paused_until {
            return None;
        }
        let set = if counted {
            self.pending.intersection(&self.counted)
        } else {
            self.pending.difference(&self.counted)
        };
        let run = self.run_from(&set, 1, passages_max)?;
        if !self.current {
            return Some(run);
        }
        let before_live = Seq::new(self.live_from.checked_sub(1)?).ok()?;
        SeqRange::new(run.first(), run.last().min(before_live))
    }

    /// The first run of a set at or after a number, cut to one batch.
    fn run_from(&self, set: &SeqSet, from: u64, passages_max: u64) -> Option<SeqRange> {
        let ranges = set.ranges();
        let place = ranges.partition_point(|range| range.last().get() < from);
        let run = ranges.get(place)?;
        let first = run.first().max(Seq::new(from).ok()?);
        let most = self.batch_passages.min(passages_max);
        let count = most.min(run.last().get() - first.get() + 1);
        SeqRange::from_count(first, count).ok()
    }

    /// A message takes these numbers.
    pub fn take(&mut self, lane: Lane, range: SeqRange) {
        self.pending.remove(range);
        if lane == Lane::Suspect {
            self.suspects.pop_front();
        }
    }

    /// These numbers stayed unanswered too often: both halves wait apart from all others.
    pub fn suspect(&mut self, range: SeqRange) {
        let half = range.count() / 2;
        let halves =
            Seq::new(range.first().get() + half)
                .ok()
                .map_or([None, Some(range)], |middle| {
                    let front = SeqRange::from_count(range.first(), half).ok();
                    [front, SeqRange::new(middle, range.last())]
                });
        for piece in halves.into_iter().flatten() {
            self.pending.remove(piece);
            self.suspects.push_back(piece);
        }
    }

    /// Whether receipts cover the whole range.
    #[must_use]
    pub fn is_settled(&self, range: SeqRange) -> bool {
        self.settled.contains_range(range)
    }

    /// Whether the whole range still has to be sent.
    #[must_use]
    pub fn is_wanted(&self, range: SeqRange) -> bool {
        self.wanted().contains_range(range)
    }

    /// Whether anything waits, suspects included.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.suspects.is_empty()
    }

    /// When something of it may leave that may not now.
    #[must_use]
    pub fn timeout(&self, now: Millis, event_wait_ms: Millis) -> Option<Millis> {
        if self.is_empty() {
            return None;
        }
        if now < self.paused_until {
            return Some(self.paused_until);
        }
        let run = self
            .current
            .then(|| self.run_from(&self.pending, self.live_from, u64::MAX))
            .flatten()?;
        self.arrivals
            .due_at(run.first().get(), event_wait_ms)
            .filter(|due| *due > now)
    }
}

/// When numbers were accepted, coarsely and never too late.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    /// `(to, at)`: numbers up to `to` that no earlier entry covers came at `at` or after.
    marks: VecDeque<(u64, Millis)>,
}

impl Arrivals {
    /// Bounded: two marks at least a step apart can both be younger than a wait at most
    /// [`ARRIVAL_STEPS`] times, and of the older ones only the last is kept.
    fn note(&mut self, now: Millis, to: u64, step_ms: Millis) {
        match self.marks.back_mut() {
            Some((last, at)) if now <= *at + step_ms => *last = to,
            _ => self.marks.push_back((to, now)),
        }
        let old_from = now.saturating_sub(step_ms * (ARRIVAL_STEPS + 1));
        while self.marks.get(1).is_some_and(|(_, at)| *at < old_from) {
            self.marks.pop_front();
        }
    }

    /// The last number that has waited long enough.
    fn due_to(&self, now: Millis, wait_ms: Millis) -> u64 {
        let due = self.marks.iter().take_while(|(_, at)| at + wait_ms <= now);
        due.last().map_or(0, |(to, _)| *to)
    }

    /// When a number has waited long enough.
    fn due_at(&self, number: u64, wait_ms: Millis) -> Option<Millis> {
        self.marks
            .iter()
            .find(|(to, _)| number <= *to)
            .map(|(_, at)| at + wait_ms)
    }
}

#[cfg(test)]
mod tests;
