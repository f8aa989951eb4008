//! ● The uplink: what the agent's courier wants done is done in virtual time.

use edge_agent::uplink::courier::Errand;
use edge_agent::uplink::exchange::Input;
use proto::EventTime;
use proto::heartbeat::CameraLink;

use super::super::queue::Millis;
use super::super::stage::{Event, Stage, UnitEvent};
use super::{Done, Running, Unit};

impl Running {
    /// By the clock that waits are measured with.
    pub(super) const fn clock(&self, now: Millis) -> Millis {
        now - self.began
    }
}

impl Unit {
    /// Tells the machine, and does what it wants.
    pub(super) fn feed(&mut self, stage: &mut Stage, input: Input) {
        if let Some(running) = &mut self.running {
            running.courier.feed(running.clock(stage.now()), input);
            self.obey(stage);
        }
    }

    /// Does what the machine wants, in order, and notes when it wants to be asked again.
    pub(super) fn obey(&mut self, stage: &mut Stage) {
        loop {
            let at = self.reading(stage.now());
            let Some(running) = &mut self.running else {
                break;
            };
            let Some(errand) = running.courier.next(at) else {
                break;
            };
            match errand {
                Errand::Connect => {
                    let takes = stage.dice.between(5, 3_000);
                    self.later(stage, takes, UnitEvent::Dial);
                }
                Errand::Ask(question) => {
                    self.ask(stage, async move { Done::Answered(question.await) });
                }
                Errand::Hand { frame, letter } => {
                    let bytes = frame.len();
                    let taken = self.send(stage, frame);
                    if let Some(running) = &mut self.running {
                        let clock = running.clock(stage.now());
                        running.courier.handed(clock, letter, bytes, taken);
                    }
                }
                Errand::Heartbeat => running.courier.heartbeat(at, CameraLink::Unknown, None),
                Errand::CentreTime(at) => self.take_time(stage, at),
                Errand::Corrected(told) => self.correct(stage, told),
            }
        }
        let Some(running) = &mut self.running else {
            return;
        };
        let now = stage.now();
        if let Some(timeout) = running.courier.machine().timeout(running.clock(now)) {
            let at = (running.began + timeout).max(now);
            let is_pending = running.uplink_at <= at && running.uplink_at > now;
            if !is_pending {
                running.uplink_at = at;
                let event = Event::Unit(self.place, self.life, UnitEvent::Uplink);
                stage.queue.at(at.max(now + 1), event);
            }
        }
    }

    /// Takes over what time it is by the centre, if it sees this unit's clock differ.
    fn correct(&mut self, stage: &mut Stage, told: Option<EventTime>) {
        self.note_time(stage);
        stage.oracle.tally.corrected += u64::from(told.is_some());
        if let Some(running) = &mut self.running {
            let clock = running.clock(stage.now());
            running.known.corrected(told, clock);
        }
        told.into_iter().for_each(|at| self.take_time(stage, at));
    }

    fn take_time(&mut self, stage: &mut Stage, at: EventTime) {
        if let Some(running) = &mut self.running {
            let clock = running.clock(stage.now());
            running.known.not_before(at, clock);
            running.courier.buffer().centre_time(at);
        }
        self.ask_turn(stage);
    }
}
