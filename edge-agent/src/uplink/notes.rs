//! What the unit says instead of passages, or ahead of them: summaries and losses. Pure.
//!
//! Both are small, sealed and safe to repeat, so there is no window for them: one summary, of many
//! entries, is on its way at a time, and the losses of a stream are stated, then stated again after
//! the resend time for as long as the buffer lists them. A receipt ends that by way of the buffer.
//!
//! Raw passages of the backlog make way for summaries ([`Notes::hold`]), but not for ones that are
//! refused, or that again and again nobody answers.

use std::collections::{BTreeMap, BTreeSet};

use proto::limits::SUMMARY_ENTRIES_MAX;
use proto::loss::Loss;
use proto::receipt::StreamReceipt;
use proto::{SeqRange, SeqSet, StreamId};

use super::backoff::Millis;
use crate::buffer::BufferState;

/// Sendings of summaries in a row that stay unanswered before passages wait for them no longer.
const UNANSWERED_MAX: u32 = 3;

/// What of the backlog waits while summaries go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// What the windows have already: a summary is on its way.
    Counted,
    /// All of it: a summary is about to leave.
    All,
}

/// What is to be said next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Ask the buffer for the oldest summaries of this stream, so many entries at most.
    ReadSummary(StreamId, usize),
    /// State these losses.
    Losses(StreamId, Vec<Loss>),
}

/// A summary on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryInFlight {
    /// Its stream.
    pub stream: StreamId,
    /// The range that its header claims, by which a refusal names it.
    pub claimed: SeqRange,
    /// What it stands for.
    pub seqs: SeqSet,
    /// How many entries it has.
    pub entries: usize,
    overdue_at: Millis,
}

#[derive(Debug, Clone, Default)]
enum Summaries {
    /// Nothing on its way.
    #[default]
    Idle,
    /// The buffer was asked.
    Reading,
    /// Sent.
    Sent(SummaryInFlight),
    /// Refused; the buffer was told.
    Refused,
}

#[derive(Debug, Clone)]
struct Stated {
    losses: Vec<Loss>,
    again_at: Millis,
}

/// Summaries and losses that wait for a receipt.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    losses: BTreeMap<StreamId, Vec<Loss>>,
    stated: BTreeMap<StreamId, Stated>,
    summarised: u64,
    streams: Vec<StreamId>,
    /// Streams that had no summary to give since `summarised` last changed.
    without: BTreeSet<StreamId>,
    summaries: Summaries,
    /// A summary of several entries was refused: they go one by one until one is answered, so that
    /// a bad one costs itself only.
    one_by_one: bool,
    /// Sendings in a row that stayed unanswered.
    unanswered: u32,
    paused_until: Millis,
    /// Refusals since one was answered that changed nothing, and until when the next one waits.
    refusals: u32,
    summaries_paused_until: Millis,
}

impl Notes {
    /// Takes over what the buffer says.
    pub fn observe(&mut self, state: &BufferState) {
        self.losses.clear();
        for (stream, loss) in &state.losses {
            self.losses.entry(*stream).or_default().push(*loss);
        }
        let losses = &self.losses;
        self.stated.retain(|stream, _| losses.contains_key(stream));
        if state.summarised != self.summarised {
            self.summarised = state.summarised;
            self.without.clear();
        }
        self.streams = state.streams.iter().map(|stream| stream.id).collect();
    }

    /// The store failed and was opened again: that it gave no summaries meanwhile says nothing.
    pub fn reopened(&mut self) {
        self.without.clear();
    }

    /// What may be said now, if anything.
    #[must_use]
    pub fn next(&self, now: Millis) -> Option<Note> {
        if now < self.paused_until {
            return None;
        }
        let unstated = self.losses.iter().find(|(stream, losses)| {
            self.stated
                .get(stream)
                .is_none_or(|s| s.losses != **losses || s.again_at <= now)
        });
        if let Some((stream, losses)) = unstated {
            return Some(Note::Losses(*stream, losses.clone()));
        }
        let idle = match &self.summaries {
            Summaries::Idle => self.summaries_paused_until <= now,
            Summaries::Reading | Summaries::Refused => false,
            Summaries::Sent(summary) => summary.overdue_at <= now,
        };
        let mut asked = self
            .streams
            .iter()
            .filter(|stream| !self.without.contains(stream));
        let entries_max = if self.one_by_one {
            1
        } else {
            SUMMARY_ENTRIES_MAX
        };
        let stream = asked.next().filter(|_| idle && self.summarised > 0)?;
        Some(Note::ReadSummary(*stream, entries_max))
    }

    /// What of the backlog waits for summaries.
    #[must_use]
    pub fn hold(&self, now: Millis) -> Hold {
        let is_paused = now < self.paused_until.max(self.summaries_paused_until);
        if is_paused || self.unanswered >= UNANSWERED_MAX {
            return Hold::Nothing;
        }
        let mut asked = self.streams.iter();
        match self.summaries {
            Summaries::Idle if self.summarised == 0 => Hold::Nothing,
            Summaries::Idle if asked.all(|stream| self.without.contains(stream)) => Hold::Nothing,
            Summaries::Idle | Summaries::Reading => Hold::All,
            Summaries::Sent(_) | Summaries::Refused => Hold::Counted,
        }
    }

    /// The note leaves.
    pub fn left(&mut self, note: &Note, now: Millis, resend_ms: Millis) {
        match note {
            Note::ReadSummary(..) => {
                self.unanswered += u32::from(matches!(self.summaries, Summaries::Sent(_)));
                self.summaries = Summaries::Reading;
            }
            Note::Losses(stream, losses) => {
                let stated = Stated {
                    losses: losses.clone(),
                    again_at: now + resend_ms,
                };
                self.stated.insert(*stream, stated);
            }
        }
    }

    /// The buffer gave a summary, and it was handed to the link.
    pub fn summary_sent(
        &mut self,
        stream: StreamId,
        claimed: SeqRange,
        seqs: SeqSet,
        entries: usize,
        overdue_at: Millis,
    ) {
        let summary = SummaryInFlight {
            stream,
            claimed,
            seqs,
            entries,
            overdue_at,
        };
        self.summaries = Summaries::Sent(summary);
    }

    /// The buffer had none for this stream.
    pub fn summary_absent(&mut self, stream: StreamId) {
        self.without.insert(stream);
        self.summaries = Summaries::Idle;
    }

    /// The buffer's summary could not be handed to the link.
    pub fn summary_unsent(&mut self) {
        self.summaries = Summaries::Idle;
    }

    /// Takes over a committed cursor. Whether it answered a summary.
    pub fn settle(&mut self, receipt: &StreamReceipt) -> bool {
        let decided = receipt.counted.union(&receipt.lost);
        let answered = matches!(&self.summaries, Summaries::Sent(summary)
            if summary.stream == receipt.stream && summary.seqs.is_subset(&decided));
        if answered {
            self.summaries = Summaries::Idle;
            (self.refusals, self.unanswered) = (0, 0);
            self.one_by_one = false;
        }
        answered
    }

    /// Takes out the summary that a refusal names.
    pub fn refused(&mut self, stream: StreamId, range: SeqRange) -> Option<SummaryInFlight> {
        match std::mem::take(&mut self.summaries) {
            Summaries::Sent(s) if s.stream == stream && s.claimed == range => Some(s),
            other => {
                self.summaries = other;
                None
            }
        }
    }

    /// The entries of the summary that was refused go one by one.
    pub fn split(&mut self) {
        self.one_by_one = true;
    }

    /// The buffer is told to drop the summary that was refused: none goes before it has.
    pub fn giving_up(&mut self) {
        self.summaries = Summaries::Refused;
    }

    /// The buffer has.
    pub fn given_up(&mut self) {
        if matches!(self.summaries, Summaries::Refused) {
            self.summaries = Summaries::Idle;
        }
    }

    /// A refusal changed nothing: the next summary waits for what `wait_ms` makes of the refusals in a row.
    pub fn pause_summaries(&mut self, now: Millis, wait_ms: impl FnOnce(u32) -> Millis) {
        self.refusals = self.refusals.saturating_add(1);
        self.summaries_paused_until = now + wait_ms(self.refusals);
    }

    /// The centre asked to wait.
    pub fn pause(&mut self, until: Millis) {
        self.paused_until = until;
    }

    /// Nothing that was handed to the link can be counted on.
    pub fn lose_all(&mut self) {
        self.stated.clear();
        self.without.clear();
        if matches!(self.summaries, Summaries::Sent(_)) {
            self.unanswered += 1;
            self.summaries = Summaries::Idle;
        }
    }

    /// When something may be said that may not now.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        let again = self.stated.values().map(|stated| stated.again_at);
        let overdue = match &self.summaries {
            Summaries::Sent(summary) => Some(summary.overdue_at),
            Summaries::Idle | Summaries::Reading | Summaries::Refused => None,
        };
        let paused = (!self.losses.is_empty() || self.summarised > 0).then_some(self.paused_until);
        let refused = (self.summarised > 0).then_some(self.summaries_paused_until);
        again
            .chain(overdue)
            .chain(paused)
            .chain(refused)
            .filter(|at| *at > now)
            .min()
    }
}

#[cfg(test)]
mod tests;
