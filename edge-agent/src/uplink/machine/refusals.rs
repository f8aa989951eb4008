//! What a refusal leads to: wait, another form, or aside. Pure.
//!
//! A refusal names a message by stream and range; one that names none of ours has been overtaken by
//! a receipt or a resend and, beyond asking to wait, means nothing.

use proto::receipt::{Refusal, RefusalClass, RefusalReason};
use proto::{SeqRange, StreamId};

use super::Machine;
use crate::uplink::backoff::Millis;
use crate::uplink::exchange::Command;
use crate::uplink::flight::Message;
use crate::uplink::notes::SummaryInFlight;

impl Machine {
    pub(super) fn refusal(&mut self, now: Millis, refusal: &Refusal) {
        if !self.hear(refusal.centre) {
            return;
        }
        let Some(range) = refusal.range else { return };
        if let Some(summary) = self.notes.refused(refusal.stream, range) {
            return self.summary_refused(now, refusal, summary);
        }
        let named = |m: &Message| m.stream == refusal.stream && m.range == range;
        let id = self
            .flight
            .iter()
            .find(|(_, m)| named(m) && m.sendings > 0)
            .map(|(id, _)| id);
        match refusal.class {
            RefusalClass::Later => {
                self.tally.refused_later += 1;
                self.wait(now, refusal.stream, refusal.reason, id.is_some());
            }
            RefusalClass::Reshape => {
                self.tally.refused_reshape += 1;
                self.reshape(now, refusal, range, id.is_some());
            }
            RefusalClass::Never => {
                self.tally.refused_never += 1;
                if id.is_some() {
                    let (stream, reason) = (refusal.stream, refusal.reason);
                    self.commands.push_back(Command::Refused {
                        stream,
                        range,
                        reason,
                        build: self.build.clone(),
                    });
                    let queue = self.queues.iter_mut().find(|queue| queue.stream == stream);
                    queue.into_iter().for_each(|queue| queue.give_up(range));
                }
            }
        }
        if let Some(id) = id {
            self.drop_message(id);
        }
    }

    /// The centre asked to wait: all of us, or this stream.
    fn wait(&mut self, now: Millis, stream: StreamId, reason: RefusalReason, ours: bool) {
        if matches!(
            reason,
            RefusalReason::Overload | RefusalReason::UnknownVersion
        ) {
            self.gate.refused(now, &mut self.jitter);
        } else if ours {
            self.pause(now, stream);
        } else {
            let wait = self.pace.probe.wait_ms(1, &mut self.jitter);
            self.notes.pause(now + self.pace.resend.base_ms + wait);
        }
    }

    fn pause(&mut self, now: Millis, stream: StreamId) {
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.stream == stream) {
            queue.pauses = queue.pauses.saturating_add(1);
            let wait = self.pace.probe.wait_ms(queue.pauses, &mut self.jitter);
            queue.paused_until = now + wait;
        }
    }

    fn reshape(&mut self, now: Millis, refusal: &Refusal, range: SeqRange, ours: bool) {
        if !ours || range.count() == 1 {
            // Nothing to make smaller: the next centre build may think otherwise.
            return self.pause(now, refusal.stream);
        }
        if let Some(queue) = self.queues.iter_mut().find(|q| q.stream == refusal.stream) {
            queue.batch_passages = (range.count() / 2).max(1);
        }
    }

    /// The raw passages behind a summary are gone, so it cannot take another form: what is not
    /// counted is lost. Of several entries the one that is to blame has to be found first.
    fn summary_refused(&mut self, now: Millis, refusal: &Refusal, summary: SummaryInFlight) {
        match refusal.class {
            RefusalClass::Later => {
                self.tally.refused_later += 1;
                return self.wait(now, refusal.stream, refusal.reason, false);
            }
            RefusalClass::Reshape => self.tally.refused_reshape += 1,
            RefusalClass::Never => self.tally.refused_never += 1,
        }
        let counted = refusal.counted.clone().unwrap_or_default();
        if summary.entries > 1 {
            self.notes.split();
        } else if summary.seqs.is_subset(&counted) {
            // Its receipt is on the way, or comes when it is sent again.
            let (probe, jitter) = (self.pace.probe, &mut self.jitter);
            self.notes
                .pause_summaries(now, |refusals| probe.wait_ms(refusals, jitter));
        } else {
            self.notes.giving_up();
            self.commands.push_back(Command::SummaryRefused {
                stream: summary.stream,
                seqs: summary.seqs,
                counted,
                reason: refusal.reason,
            });
        }
    }
}
