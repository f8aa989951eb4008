//! What leaves beside passages: summaries, and the folding that makes them, losses, heartbeats.

use super::Machine;
use crate::buffer::Folded;
use crate::uplink::allowance::{Allowed, SPARING};
use crate::uplink::backoff::Millis;
use crate::uplink::exchange::Command;
use crate::uplink::folding::Backlog;
use crate::uplink::notes::{Hold, Note};

impl Machine {
    /// When messages may flow again, the backlog is folded before anything of it leaves.
    pub(super) fn fold(&mut self, now: Millis) {
        let flows = self.gate.window(now) > 0;
        if flows && !self.flows && self.pace.summary_after_ms > 0 {
            let waiting = self.queues.iter().filter(|queue| queue.waits());
            self.folding.begin(waiting.map(|queue| Backlog {
                stream: queue.stream,
                to: queue.accepted_to,
            }));
        } else if !flows {
            self.folding.stop();
        }
        self.flows = flows;
        if let Some((backlog, is_late)) = self.folding.ask() {
            let older_than_ms = (!is_late).then_some(self.pace.summary_after_ms);
            self.commands.push_back(Command::Fold {
                backlog,
                older_than_ms,
                age_max_ms: self.summaries_age_max_ms,
            });
        }
    }

    pub(super) fn folded(&mut self, folded: Folded) {
        if let Some(backlog) = self.folding.answered(folded)
            && let Some(queue) = self.queues.iter_mut().find(|q| q.stream == backlog.stream)
        {
            queue.aged(backlog.to);
        }
    }

    /// What of the backlog has to wait for summaries.
    pub(super) fn hold(&self, now: Millis) -> Hold {
        if self.folding.is_active() {
            Hold::All
        } else {
            self.notes.hold(now)
        }
    }

    /// Summaries, losses and heartbeats.
    pub(super) fn say(&mut self, now: Millis) {
        let may_speak = self.gate.window(now) > 0 && self.allowed != Allowed::Nothing;
        while may_speak
            && self.room
            && let Some(note) = self.notes.next(now)
        {
            self.note(now, note);
        }
        if self.heartbeat_at <= now || self.rate.wants_small_frame() {
            let rarer = if self.allowed == Allowed::Nothing {
                SPARING
            } else {
                1
            };
            self.heartbeat_at = now + self.pace.heartbeat_ms * rarer;
            self.commands.push_back(Command::Heartbeat);
        }
    }

    pub(super) fn note(&mut self, now: Millis, note: Note) {
        self.notes.left(&note, now, self.flight.resend_timeout_ms());
        self.commands.push_back(match note {
            Note::ReadSummary(stream, entries_max) => Command::Summary(stream, entries_max),
            Note::Losses(stream, losses) => Command::Losses(stream, losses),
        });
    }
}
