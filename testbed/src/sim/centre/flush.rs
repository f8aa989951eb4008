//! ● One flush: load, select, plan, commit, answer; and what follows when a part of it fails. As
//! `aggregator/src/commit/owner/flush.rs` does it, with the same pure parts.

use std::collections::HashMap;

use aggregator::commit::gather::{
    halves, new_streams, owned, parted, unknown_devices, unknown_streams,
};
use aggregator::commit::plan::{Context, plan, refusal};
use aggregator::commit::select::{LeftOver, select};
use aggregator::commit::verdict::{Next, next};
use aggregator::intake::decode::{Message, refused};
use aggregator::window::lateness::Horizon;
use aggregator::window::state::DeviceChange;
use proto::DeviceId;
use proto::frame::Down;
use proto::receipt::{Receipt, Refusal, RefusalClass, RefusalReason};

use super::super::database::{Answer, Database, Writes};
use super::super::oracle::{AHEAD_MS, HORIZON_MS};
use super::super::queue::wall_ms;
use super::super::scenario::Bug;
use super::super::stage::{AggregatorEvent, Stage};
use super::{Aggregator, Ended, Phase, WINDOWS_MAX};

/// Rejected passages kept whole per device and day, as by default.
const REJECTED_PER_DAY_MAX: i64 = 10_000;

/// Attempts at a flush that was rolled back for a passing reason.
const AGAIN_MAX: u32 = 8;

/// A flush under way.
pub(super) struct Flush {
    /// What is left to commit, the next last.
    parts: Vec<Vec<Message>>,
    left_over: Vec<Message>,
    attempts: u32,
    current: Option<Transaction>,
}

/// One transaction under way.
struct Transaction {
    id: u64,
    messages: Vec<Message>,
    writes: Option<Writes>,
    waiting: Vec<LeftOver>,
    changes: HashMap<DeviceId, DeviceChange>,
    receipts: Vec<(DeviceId, Receipt)>,
    refusals: Vec<(DeviceId, Refusal)>,
    stream_keys_used: usize,
}

impl Aggregator {
    pub(super) fn begin_flush(&mut self, stage: &mut Stage, db: &mut Database) {
        if let Some(running) = &mut self.running
            && let Phase::Session(session) = &mut running.phase
        {
            session.flush = Some(Flush {
                parts: vec![std::mem::take(&mut running.pending)],
                left_over: Vec::new(),
                attempts: 0,
                current: None,
            });
            self.next_part(stage, db);
        }
    }

    /// Plans the next transaction and sends it off; without one the flush is over.
    fn next_part(&mut self, stage: &mut Stage, db: &mut Database) {
        let bug = self.bug;
        let Some(running) = &mut self.running else {
            return;
        };
        let Phase::Session(session) = &mut running.phase else {
            return;
        };
        let Some(flush) = &mut session.flush else {
            return;
        };
        let Some(messages) = flush.parts.pop() else {
            running.pending = std::mem::take(&mut flush.left_over);
            session.flush = None;
            session.memory.shrink_to(WINDOWS_MAX);
            return self.go_on_with_session(stage, db);
        };
        if !db.is_connected(session.database) {
            flush.parts.push(messages);
            return self.fail(stage, db, Next::Reconnect, "the connection is gone");
        }
        let now_ms = wall_ms(stage.now());
        let memory = &mut session.memory;
        let places = owned(&messages, &session.holdings.tokens);
        let mut devices = unknown_devices(memory, &messages, &places);
        // Found in no order, and keys are given in this one.
        devices.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        db.load_devices(memory, &devices, now_ms.div_euclid(86_400_000));
        let streams = unknown_streams(memory, &messages, &places);
        db.load_cursors(memory, &streams);
        let horizon = Horizon::at(now_ms, HORIZON_MS, AHEAD_MS);
        let selection = select(memory, &messages, &places, &horizon);
        db.load_windows(memory, &selection.windows);
        let new = new_streams(memory, &messages, &places);
        let missing = new.saturating_sub(session.stream_keys.len());
        session.stream_keys.extend(db.stream_keys(missing));
        let context = Context {
            now_ms,
            horizon,
            raw: true,
            rejected_per_day_max: REJECTED_PER_DAY_MAX,
            stream_keys: &session.stream_keys,
            centre: session.centre,
        };
        let plan = plan(memory, &messages, &selection.parts, &context);
        let writes = Writes::of(&plan, &messages);
        let id = stage.dice.number();
        let (mut receipts, stream_keys_used) = (plan.receipts, plan.stream_keys_used);
        // Found in no order; the order of the answers must not be chance.
        receipts.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        stage.say(format_args!(
            "centre {}: transaction {id:x}: {} messages, {:?}",
            self.place,
            messages.len(),
            (
                plan.tally.counted,
                plan.tally.stored,
                plan.tally.duplicate,
                plan.tally.summarised
            ),
        ));
        let (changes, refusals) = (plan.changes, plan.refusals);
        let early = (bug == Some(Bug::ReceiptBeforeCommit)).then(|| receipts.clone());
        flush.current = Some(Transaction {
            id,
            writes: Some(writes),
            waiting: selection.left_over,
            changes,
            receipts,
            refusals,
            stream_keys_used,
            messages,
        });
        for (device, receipt) in early.into_iter().flatten() {
            self.send_down(stage, &device, &Down::Receipt(receipt));
        }
        let most = stage.weather.commit_ms_max;
        let takes = stage.dice.between(1, most);
        self.later(stage, takes, AggregatorEvent::Commit(id));
    }

    /// COMMIT reaches the database: also that of a process which is stopped or gone meanwhile has.
    pub(super) fn commit(&mut self, stage: &mut Stage, db: &mut Database, id: u64) {
        let bug = self.bug;
        let Some(running) = &mut self.running else {
            return;
        };
        let Phase::Session(session) = &mut running.phase else {
            return;
        };
        let current = session
            .flush
            .as_mut()
            .and_then(|flush| flush.current.as_mut());
        let Some(current) = current.filter(|current| current.id == id) else {
            return;
        };
        let Some(mut writes) = current.writes.take() else {
            return;
        };
        let cursors = (bug == Some(Bug::CursorAfterWindows)).then(|| writes.split_cursors());
        let answer = db.commit(stage, session.database, writes, &session.holdings.tokens);
        stage.say(format_args!(
            "centre {}: transaction {id:x}: {answer:?}",
            self.place
        ));
        if let Some(cursors) = cursors.filter(|_| matches!(answer, Answer::Committed)) {
            self.later(stage, 1, AggregatorEvent::Cursors(Box::new(cursors)));
        }
        let most = stage.weather.commit_ms_max;
        let takes = stage.dice.between(1, most);
        self.later(stage, takes, AggregatorEvent::Answer(id, answer));
    }

    pub(super) fn answered(
        &mut self,
        stage: &mut Stage,
        db: &mut Database,
        id: u64,
        answer: Answer,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Phase::Session(session) = &mut running.phase else {
            return;
        };
        let Some(flush) = &mut session.flush else {
            return;
        };
        let Some(done) = flush.current.take_if(|current| current.id == id) else {
            return;
        };
        // Whoever ended the connection meanwhile may have swallowed the answer.
        let is_swallowed = !db.is_connected(session.database) && stage.dice.percent(50);
        let answer = if is_swallowed { Answer::Lost } else { answer };
        match answer {
            Answer::Committed => {
                flush
                    .left_over
                    .extend(parted(done.messages, &done.waiting).0);
                session.memory.install(done.changes);
                session.stream_keys.drain(..done.stream_keys_used);
                let receipts = if self.bug == Some(Bug::ReceiptBeforeCommit) {
                    Vec::new()
                } else {
                    done.receipts
                };
                self.answer(stage, receipts, done.refusals);
                self.next_part(stage, db);
            }
            Answer::Failed(state) => {
                flush.parts.push(done.messages);
                self.fail(stage, db, next(Some(&state)), state.code());
            }
            Answer::Lost => {
                flush.parts.push(done.messages);
                self.fail(stage, db, next(None), "the connection is gone");
            }
            Answer::Fenced(reason) => {
                flush.parts.push(done.messages);
                self.give_up(stage, Ended::Raise(reason));
            }
        }
    }

    /// After the COMMIT: receipts and refusals.
    fn answer(
        &mut self,
        stage: &mut Stage,
        receipts: Vec<(DeviceId, Receipt)>,
        refusals: Vec<(DeviceId, Refusal)>,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Phase::Session(session) = &running.phase else {
            return;
        };
        let devices = session.memory.device_count();
        let now_ms = wall_ms(stage.now());
        let mut words: Vec<(DeviceId, Down)> = receipts
            .into_iter()
            .map(|(device, receipt)| (device, Down::Receipt(receipt)))
            .collect();
        for (device, mut refusal) in refusals {
            if refusal.class == RefusalClass::Never {
                running.surge.never(&device, devices, now_ms);
                if running.surge.is_blown() {
                    refusal.class = RefusalClass::Later;
                }
            }
            words.push((device, Down::Refusal(refusal)));
        }
        for (device, word) in words {
            self.send_down(stage, &device, &word);
        }
    }

    /// What was not committed is on top of the parts.
    fn fail(&mut self, stage: &mut Stage, db: &mut Database, next: Next, reason: &str) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Phase::Session(session) = &mut running.phase else {
            return;
        };
        let centre = session.centre;
        let Some(flush) = &mut session.flush else {
            return;
        };
        match next {
            Next::Bisect => {
                let messages = flush.parts.pop().unwrap_or_default();
                if messages.len() > 1 {
                    let (first, second) = halves(messages);
                    flush.parts.push(second);
                    flush.parts.push(first);
                } else {
                    for message in &messages {
                        let device = message.sender().device.clone();
                        let (class, why) = (RefusalClass::Never, RefusalReason::Unstorable);
                        let (stream, range) = (message.header.stream, message.header.range());
                        let refusal =
                            refusal(centre, stream, range, refused(class, why, reason), None);
                        self.send_down(stage, &device, &Down::Refusal(refusal));
                    }
                }
                self.next_part(stage, db);
            }
            Next::Again if flush.attempts < AGAIN_MAX => {
                flush.attempts += 1;
                self.next_part(stage, db);
            }
            Next::Close => self.give_up(stage, Ended::Closed(reason.to_owned())),
            Next::Again | Next::Reconnect => {
                self.give_up(stage, Ended::Raise(reason.to_owned()));
            }
        }
    }

    /// All that was not committed is pending again.
    fn give_up(&mut self, stage: &mut Stage, ended: Ended) {
        if let Some(running) = &mut self.running
            && let Phase::Session(session) = &mut running.phase
            && let Some(flush) = session.flush.take()
        {
            running.pending = flush.parts.into_iter().rev().flatten().collect();
            running.pending.extend(flush.left_over);
        }
        self.end(stage, ended);
    }
}
