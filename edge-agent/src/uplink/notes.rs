//! What the unit says about passages that it no longer holds: summaries and losses. Pure.
//!
//! Both are small, sealed and safe to repeat, so there is no window for them: one summary is on
//! its way at a time, and the losses of a stream are stated, then stated again after the resend
//! time for as long as the buffer lists them. A receipt ends that by way of the buffer.

use std::collections::{BTreeMap, BTreeSet};

use proto::loss::Loss;
use proto::receipt::StreamReceipt;
use proto::{SeqRange, SeqSet, StreamId};

use super::backoff::Millis;
use crate::buffer::BufferState;

/// What is to be said next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Ask the buffer for the oldest summaries of this stream.
    ReadSummary(StreamId),
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
    paused_until: Millis,
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
            Summaries::Idle => true,
            Summaries::Reading => false,
            Summaries::Sent(summary) => summary.overdue_at <= now,
        };
        let mut asked = self
            .streams
            .iter()
            .filter(|stream| !self.without.contains(stream));
        (idle && self.summarised > 0).then(|| asked.next().copied().map(Note::ReadSummary))?
    }

    /// The note leaves.
    pub fn left(&mut self, note: &Note, now: Millis, resend_ms: Millis) {
        match note {
            Note::ReadSummary(_) => self.summaries = Summaries::Reading,
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
        overdue_at: Millis,
    ) {
        let summary = SummaryInFlight {
            stream,
            claimed,
            seqs,
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

    /// The centre asked to wait.
    pub fn pause(&mut self, until: Millis) {
        self.paused_until = until;
    }

    /// Nothing that was handed to the link can be counted on.
    pub fn lose_all(&mut self) {
        self.stated.clear();
        self.without.clear();
        if matches!(self.summaries, Summaries::Sent(_)) {
            self.summaries = Summaries::Idle;
        }
    }

    /// When something may be said that may not now.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        let again = self.stated.values().map(|stated| stated.again_at);
        let overdue = match &self.summaries {
            Summaries::Sent(summary) => Some(summary.overdue_at),
            Summaries::Idle | Summaries::Reading => None,
        };
        let paused = (!self.losses.is_empty() || self.summarised > 0).then_some(self.paused_until);
        again
            .chain(overdue)
            .chain(paused)
            .filter(|at| *at > now)
            .min()
    }
}
