//! ● The buffer's thread: its turns come when the disk lets them, and answers with them.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use edge_agent::buffer::{AppendError, BufferState, QuotaPolicy};
use edge_agent::uplink::courier::Answer;
use proto::limits::{LOSSES_MAX, STREAMS_MAX};

use super::super::queue::Millis;
use super::super::stage::{Event, Stage, UnitEvent};
use super::{Done, Reply, Unit};

/// What one group commit may add before the next makes room for it.
const COMMIT_BYTES_MAX: u64 = 4_096;

/// What beside passages and summaries lies on the disk: marks, losses, facts.
const FACTS_BYTES_MAX: u64 = 64 * 1_024;

/// Ids of a day and a bit, of the busiest unit here, and what one takes.
const IDS_SEEN_MAX: u64 = 20_000;
const ID_BYTES: u64 = 24;

impl Unit {
    /// Asks the buffer; the answer comes with one of its next turns.
    pub(super) fn ask(
        &mut self,
        stage: &mut Stage,
        question: impl Future<Output = Done> + 'static,
    ) {
        if let Some(running) = &mut self.running {
            // Inside of a runtime its budget would be used up at some point, and no answer come.
            let mut reply: Reply = Box::pin(tokio::task::unconstrained(question));
            // The first poll puts the question into the queue.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => running.replies.push(reply),
                Poll::Ready(done) => running.replies.push(Box::pin(async move { done })),
            }
        }
        self.ask_turn(stage);
    }

    pub(super) fn ask_turn(&mut self, stage: &mut Stage) {
        let most = stage.weather.disk_ms_max;
        let at = stage.now() + stage.dice.between(0, most);
        self.turn_at(stage, at);
    }

    pub(super) fn turn_at(&mut self, stage: &mut Stage, at: Millis) {
        if let Some(running) = &mut self.running
            && at < running.buffer_at
        {
            running.buffer_at = at;
            let event = Event::Unit(self.place, self.life, UnitEvent::Buffer);
            stage.queue.at(at, event);
        }
    }

    /// The turn of the buffer's thread.
    pub(super) fn step(&mut self, stage: &mut Stage) {
        let now = stage.now();
        let moment = self.moment(now);
        let believed_ms = self.reading(now).now.as_millis();
        let Some(running) = self.running.as_mut().filter(|r| r.buffer_at <= now) else {
            return;
        };
        running.buffer_at = Millis::MAX;
        self.bytes_before = self.disk.bytes();
        let again = running.owner.step(moment);
        for (stream, first, batch) in self.disk.take_news() {
            let oracle = &mut stage.oracle;
            oracle.accepted(
                self.identity,
                self.place,
                believed_ms,
                stream,
                first,
                &batch,
            );
        }
        if self.disk.is_cut() {
            return self.crash(stage);
        }
        let mut waiting = Vec::new();
        let mut done = Vec::new();
        for mut reply in std::mem::take(&mut running.replies) {
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => done.push(answer),
                Poll::Pending => waiting.push(reply),
            }
        }
        running.replies = waiting;
        let changed = running.state.has_changed().unwrap_or(false);
        let state = running.state.borrow_and_update().clone();
        // The driver may hear of the new state before or after the answers.
        let state_first = stage.dice.percent(50);
        if changed {
            self.look(stage, &state);
        }
        if changed && state_first {
            self.observe(stage);
        }
        done.into_iter().for_each(|done| self.done(stage, done));
        if changed && !state_first {
            self.observe(stage);
        }
        let until = again.saturating_duration_since(self.epoch);
        let at = u64::try_from(until.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        self.turn_at(stage, at.max(now + 1));
    }

    /// Shows the judge what lies here.
    pub(super) fn look(&mut self, stage: &mut Stage, state: &BufferState) {
        self.look_at_bounds(stage, state);
        stage.oracle.declared(&state.losses);
        if self.last_losses != state.losses {
            self.last_losses.clone_from(&state.losses);
            for (stream, loss) in &state.losses {
                stage.say(format_args!(
                    "{}: lost of {stream}: {} {:?} {:?}",
                    self.name, loss.range, loss.scope, loss.reason
                ));
            }
        }
        stage.oracle.identity(
            self.identity,
            self.place,
            self.disk.held(),
            &self.last_losses,
        );
    }

    /// However long the centre is away, what lies here has its bounds.
    fn look_at_bounds(&self, stage: &mut Stage, state: &BufferState) {
        let quota_bytes = self.setup.quota_bytes;
        // Where nothing goes to make room for them, the deltas of a backlog have room beyond.
        let deltas_bytes = match self.setup.policy {
            QuotaPolicy::DropOldest => 0,
            QuotaPolicy::RefuseNew => quota_bytes / 16,
        };
        let held_max = quota_bytes.saturating_add(deltas_bytes + COMMIT_BYTES_MAX);
        let ids_bytes = self.camera.items_made().min(IDS_SEEN_MAX) * ID_BYTES;
        let files_max = held_max.saturating_add(ids_bytes + FACTS_BYTES_MAX);
        let within = state.held_bytes <= held_max
            && self.disk.bytes() <= files_max
            && state.streams.len() <= STREAMS_MAX
            && state.losses.len() <= LOSSES_MAX;
        if !within {
            stage.oracle.fail(format!(
                "{} holds {} bytes at a quota of {quota_bytes}, {} in all, {} streams, {} losses",
                self.name,
                state.held_bytes,
                self.disk.bytes(),
                state.streams.len(),
                state.losses.len(),
            ));
        }
    }

    /// Whoever refuses at its quota is at it: before this turn, after it, or in between by what one
    /// commit adds.
    fn look_at_refusal(&self, stage: &mut Stage) {
        let (bytes, quota_bytes) = (self.disk.bytes(), self.setup.quota_bytes);
        let most = bytes.max(self.bytes_before) + COMMIT_BYTES_MAX;
        if most < quota_bytes {
            stage.oracle.fail(format!(
                "{} refuses at its quota of {quota_bytes} bytes, and holds {bytes}",
                self.name
            ));
        }
    }

    pub(super) fn observe(&mut self, stage: &mut Stage) {
        if let Some(running) = &mut self.running {
            running.courier.observe(running.clock(stage.now()));
            self.obey(stage);
        }
    }

    fn done(&mut self, stage: &mut Stage, done: Done) {
        match done {
            Done::Posted { times, appended } => match appended {
                Ok(_) => {
                    stage.oracle.answered(self.identity, &times);
                    self.camera.answered(&times);
                }
                Err(error) => {
                    if matches!(error, AppendError::NoSpace { .. }) {
                        stage.oracle.tally.no_space += 1;
                        if !self.wants_space(stage.now()) {
                            let name = &self.name;
                            let problem = format!("{name} has space and refuses for want of it");
                            stage.oracle.fail(problem);
                        }
                    }
                    if matches!(error, AppendError::Full { .. }) {
                        stage.oracle.tally.full += 1;
                        self.look_at_refusal(stage);
                    }
                    stage.say(format_args!("{}: post refused: {error}", self.name));
                    self.camera.unanswered();
                }
            },
            Done::Answered(answer) => self.answered(stage, answer),
        }
    }

    fn answered(&mut self, stage: &mut Stage, answer: Answer) {
        let at = self.reading(stage.now());
        if let Some(running) = &mut self.running {
            let clock = running.clock(stage.now());
            running.courier.answered(clock, at, answer);
            self.obey(stage);
        }
    }
}
