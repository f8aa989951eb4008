//! What the driver does for the machine, command by command, without waiting.

use proto::EventTime;
use proto::receipt::Correction;

use super::Driver;
use crate::uplink::exchange::{Command, Input};
use crate::uplink::flight::MessageId;

impl Driver {
    /// Does what the machine wants, in order.
    pub(super) fn obey(&mut self) {
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Connect => self.read_credentials(),
                Command::Read { id, stream, range } => self.read(id, stream, range),
                Command::Publish(id) => self.publish(id),
                Command::Forget(id) => drop(self.frames.remove(&id)),
                Command::Fold {
                    backlog,
                    older_than_ms,
                    age_max_ms,
                } => self.fold(backlog, older_than_ms, age_max_ms),
                Command::Summary(stream, entries_max) => self.read_summary(stream, entries_max),
                Command::Losses(stream, losses) => {
                    let (state, at) = (self.state.borrow().clone(), self.time.read());
                    if let Some(frame) = self.framer.losses(&state, at, stream, losses) {
                        self.say(frame, "losses");
                    }
                }
                Command::Heartbeat => {
                    let drain = self.flow.borrow().drain_per_min();
                    let (state, at) = (self.state.borrow().clone(), self.time.read());
                    let frame = self.framer.heartbeat(&state, at, self.camera(), drain);
                    self.say(frame, "a heartbeat");
                }
                Command::Receipt(centre, streams) => {
                    self.inbox.push(centre, streams);
                    self.tell();
                }
                Command::Refused {
                    stream,
                    range,
                    reason,
                    build,
                } => self.refuse(stream, range, reason, build),
                Command::SummaryRefused {
                    stream,
                    seqs,
                    counted,
                    reason,
                } => self.refuse_summary(stream, seqs, counted, reason),
                Command::OfferAgain(build) => self.offer_again(build),
                Command::CentreTime(at) => {
                    self.take_time(at);
                }
                Command::Corrected(correction) => self.correct(correction),
            }
        }
    }

    pub(super) fn publish(&mut self, id: MessageId) {
        let Some(frame) = self.frames.remove(&id) else {
            return;
        };
        if !self.hand(frame.clone()) {
            self.frames.insert(id, frame);
            self.feed(Input::NotPublished { id });
        }
    }

    /// Hands a frame to the link; false when there is no room or no link.
    pub(super) fn hand(&mut self, frame: Vec<u8>) -> bool {
        let bytes = frame.len();
        let handed = self.link.as_mut().is_some_and(|link| link.publish(frame));
        if handed {
            self.meter.frame(self.time.read().now, bytes);
        }
        handed
    }

    /// Publishes something that is said again anyway.
    pub(super) fn say(&mut self, frame: Vec<u8>, what: &'static str) {
        let bytes = frame.len();
        if self.hand(frame) {
            self.feed(Input::Said { bytes });
        } else {
            tracing::debug!(what, "not sent for want of room; it is said again");
        }
    }

    /// It is no earlier than the centre said, by which certificates are judged as well, also after a
    /// restart. Returns whether that is believed.
    pub(super) fn take_time(&mut self, at: EventTime) -> bool {
        let not_after = self.view.borrow().certificate_not_after;
        let is_believed =
            not_after.is_some_and(|not_after| self.credentials.raise_floor(at, not_after));
        if is_believed {
            self.time.not_before(at);
            self.buffer.centre_time(at);
        }
        is_believed
    }

    /// Takes over what the centre knows better.
    pub(super) fn correct(&mut self, correction: Option<Correction>) {
        let Some(Correction { at, run, counter }) = correction else {
            return self.time.corrected(None);
        };
        if self.take_time(at) {
            self.time.corrected(Some(at));
        }
        if let Some(run) = self.framer.exceed(run, counter) {
            tracing::warn!(
                run,
                "the centre knows a run of this unit by a higher number; this one goes above it"
            );
        }
    }
}
