//! What the driver does for the machine, errand by errand, without waiting.

use proto::EventTime;

use super::Driver;
use super::asking::Done;
use crate::uplink::courier::Errand;

impl Driver {
    /// Does what the machine wants, in order.
    pub(super) fn obey(&mut self) {
        while let Some(errand) = self.courier.next(self.time.read()) {
            match errand {
                Errand::Connect => self.read_credentials(),
                Errand::Ask(question) => self.ask(async move { Done::Answered(question.await) }),
                Errand::Hand { frame, letter } => {
                    let bytes = frame.len();
                    let taken = self.hand(frame);
                    self.courier.handed(self.clock.now(), letter, bytes, taken);
                }
                Errand::Heartbeat => {
                    let drain = self.flow.borrow().drain_per_min();
                    let at = self.time.read();
                    self.courier.heartbeat(at, self.camera(), drain);
                }
                Errand::CentreTime(at) => {
                    self.take_time(at);
                }
                Errand::Corrected(at) => self.correct(at),
            }
        }
    }

    /// Hands a frame to the link; false when there is no room or no link.
    fn hand(&mut self, frame: Vec<u8>) -> bool {
        let bytes = frame.len();
        let handed = self.link.as_mut().is_some_and(|link| link.publish(frame));
        if handed {
            self.meter.frame(self.time.read().now, bytes);
        }
        handed
    }

    /// It is no earlier than the centre said, by which certificates are judged as well, also after a
    /// restart. Returns whether that is believed.
    fn take_time(&mut self, at: EventTime) -> bool {
        let not_after = self.view.borrow().certificate_not_after;
        let is_believed =
            not_after.is_some_and(|not_after| self.credentials.raise_floor(at, not_after));
        if is_believed {
            self.time.not_before(at);
            self.courier.buffer().centre_time(at);
        }
        is_believed
    }

    /// Takes over what time it is by the centre, if it sees this unit's clock differ.
    fn correct(&mut self, told: Option<EventTime>) {
        let Some(at) = told else {
            return self.time.corrected(None);
        };
        if self.take_time(at) {
            self.time.corrected(Some(at));
        }
    }
}
