//! What the machine's commands mean between buffer and link: what is asked, framed, handed over, and
//! in which order.
//!
//! ```text
//! machine ● ──commands──► courier ──errands──► whoever has a clock, a runtime and a link
//!        ◄──what happened──      ◄──answers──
//! ```
//! It is told the time and waits for nothing: a question to the buffer is a future that somebody else
//! awaits, a frame is handed over by somebody else. [`super::driver`] does so with the real things,
//! the simulator with its own.
//!
//! Invariants: a summary is read only after the buffer has heard every receipt, since what they free is
//! not to be said again; receipts reach the buffer one at a time, in order; what was folded is not read,
//! for the machine hears of the buffer's new state first.

mod errands;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use proto::heartbeat::CameraLink;
use proto::receipt::Correction;
use proto::{SeqRange, StreamId};
use tokio::sync::watch;

use super::backoff::Millis;
use super::exchange::{Command, Input};
use super::flight::MessageId;
use super::frames::Framer;
use super::inbox::Inbox;
use super::machine::Machine;
use crate::buffer::{
    Buffer, BufferState, CentreVerdict, Folded, PendingSummary, ReadError, ReadLimit, StoreStopped,
    StoredRun,
};
use crate::clock::Reading;

pub use errands::{Answer, Errand, Letter, Question};

/// Stored bytes read for one message: a full window of such frames stays near the bytes that may
/// be on their way.
pub const READ_BYTES_MAX: usize = 20 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Courier {
    machine: Machine,
    framer: Framer,
    buffer: Buffer,
    state: watch::Receiver<Arc<BufferState>>,
    /// Frames of messages that wait for room on the link: at most one per message.
    frames: BTreeMap<MessageId, Vec<u8>>,
    inbox: Inbox,
    telling: bool,
    /// Summaries that are to be read as soon as the buffer knows every receipt.
    summary_wanted: Option<(StreamId, usize)>,
    errands: VecDeque<Errand>,
}

impl Courier {
    /// Between this buffer and the link of this machine.
    #[must_use]
    pub fn new(machine: Machine, framer: Framer, buffer: Buffer) -> Self {
        Self {
            machine,
            framer,
            state: buffer.state(),
            buffer,
            frames: BTreeMap::new(),
            inbox: Inbox::default(),
            telling: false,
            summary_wanted: None,
            errands: VecDeque::new(),
        }
    }

    /// What decides.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// See [`Machine::take_answer_times`].
    pub fn take_answer_times(&mut self) -> Vec<Millis> {
        self.machine.take_answer_times()
    }

    /// Where passages lie.
    #[must_use]
    pub const fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The buffer's state as it is now.
    #[must_use]
    pub fn state(&self) -> Arc<BufferState> {
        self.state.borrow().clone()
    }

    /// Resolves when the buffer has a state that the machine has not heard of; never, once the buffer
    /// is gone. Nothing is lost when it is dropped.
    pub async fn news(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells the machine what happened.
    pub fn feed(&mut self, now: Millis, input: Input) {
        self.machine.handle(now, input);
    }

    /// Tells the machine the buffer's state.
    pub fn observe(&mut self, now: Millis) {
        let state = self.state.borrow_and_update().clone();
        self.feed(now, Input::Buffer(state));
    }

    /// What is to be done next at this time; none until something happens. An errand may change what
    /// time it is: the next look at the clock comes after it.
    pub fn next(&mut self, at: Reading) -> Option<Errand> {
        loop {
            if let Some(errand) = self.errands.pop_front() {
                return Some(errand);
            }
            let Some(command) = self.machine.poll() else {
                self.buffer.offer_ahead(self.machine.flows());
                return None;
            };
            self.obey(at, command);
        }
    }

    fn obey(&mut self, at: Reading, command: Command) {
        match command {
            Command::Connect => self.errands.push_back(Errand::Connect),
            Command::Read { id, stream, range } => self.read(id, stream, range),
            Command::Publish(id) => {
                if let Some(frame) = self.frames.get(&id).cloned() {
                    self.hand(frame, Letter::Message(id));
                }
            }
            Command::Forget(id) => drop(self.frames.remove(&id)),
            Command::Fold {
                backlog,
                older_than_ms,
                age_max_ms,
            } => {
                let scope = backlog.scope(at.now, older_than_ms, age_max_ms);
                let buffer = self.buffer.clone();
                self.ask(async move { Answer::Folded(buffer.fold(backlog.stream, scope).await) });
            }
            Command::Summary(stream, entries_max) => self.read_summary(stream, entries_max),
            Command::Losses(stream, losses) => {
                let state = self.state();
                if let Some(frame) = self.framer.losses(&state, at, stream, losses) {
                    self.hand(frame, Letter::Word("losses"));
                }
            }
            Command::Heartbeat => self.errands.push_back(Errand::Heartbeat),
            Command::Receipt(centre, streams) => {
                self.inbox.push(centre, streams);
                self.tell();
            }
            Command::Refused {
                stream,
                range,
                reason,
                build,
            } => {
                let buffer = self.buffer.clone();
                self.ask(async move {
                    let moved = buffer.refused(stream, range, reason, build).await;
                    Answer::Refused {
                        stream,
                        reason,
                        moved,
                    }
                });
            }
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                reason,
            } => {
                let buffer = self.buffer.clone();
                self.ask(async move {
                    let lost = buffer.summary_refused(stream, seqs, counted).await;
                    Answer::SummaryRefused {
                        stream,
                        reason,
                        lost,
                    }
                });
            }
            Command::OfferAgain(build) => self.offer_again(build),
            Command::CentreTime(at) => self.errands.push_back(Errand::CentreTime(at)),
            Command::Corrected(correction) => self.correct(correction),
        }
    }

    fn ask(&mut self, question: impl Future<Output = Answer> + Send + 'static) {
        self.errands.push_back(Errand::Ask(Box::pin(question)));
    }

    fn hand(&mut self, frame: Vec<u8>, letter: Letter) {
        self.errands.push_back(Errand::Hand { frame, letter });
    }

    /// Takes over by which higher number the centre knows a run of this unit, and passes on what time
    /// it is.
    fn correct(&mut self, correction: Option<Correction>) {
        let told = correction.map(|Correction { at, run, counter }| {
            if let Some(run) = self.framer.exceed(run, counter) {
                tracing::warn!(
                    run,
                    "the centre knows a run of this unit by a higher number; this one goes above it"
                );
            }
            at
        });
        self.errands.push_back(Errand::Corrected(told));
    }

    /// Frames a heartbeat.
    pub fn heartbeat(&mut self, at: Reading, camera: CameraLink, drain_per_min: Option<i64>) {
        let state = self.state();
        let frame = self.framer.heartbeat(&state, at, camera, drain_per_min);
        self.hand(frame, Letter::Word("a heartbeat"));
    }

    fn read(&mut self, id: MessageId, stream: StreamId, range: SeqRange) {
        let buffer = self.buffer.clone();
        let passages = usize::try_from(range.count()).unwrap_or(usize::MAX);
        let limit = ReadLimit {
            passages,
            bytes: READ_BYTES_MAX,
        };
        self.ask(async move {
            let run = Box::new(buffer.read(stream, range.first(), limit).await);
            Answer::Read {
                id,
                stream,
                range,
                run,
            }
        });
    }

    /// After all receipts: what they free is not to be said again.
    fn read_summary(&mut self, stream: StreamId, entries_max: usize) {
        if self.telling {
            self.summary_wanted = Some((stream, entries_max));
            return;
        }
        let buffer = self.buffer.clone();
        self.ask(async move {
            let entries = buffer.pending_summaries(stream, entries_max).await;
            Answer::Summary { stream, entries }
        });
    }

    fn offer_again(&mut self, build: Arc<str>) {
        let buffer = self.buffer.clone();
        self.ask(async move {
            let passages = buffer.offer_again(Arc::clone(&build)).await;
            Answer::OfferedAgain { build, passages }
        });
    }

    /// Tells the buffer what the centre said, one word at a time so that the order is kept.
    fn tell(&mut self) {
        if self.telling {
            return;
        }
        let Some((centre, streams)) = self.inbox.pop() else {
            return;
        };
        self.telling = true;
        let buffer = self.buffer.clone();
        self.ask(async move { Answer::Receipt(buffer.receipt(centre, streams).await) });
    }

    /// Whether the link has taken a frame of so many bytes.
    pub fn handed(&mut self, now: Millis, letter: Letter, bytes: usize, taken: bool) {
        match letter {
            Letter::Message(id) if taken => drop(self.frames.remove(&id)),
            Letter::Message(id) => self.feed(now, Input::NotPublished { id }),
            Letter::Summary { .. } if !taken => self.feed(now, Input::SummaryNotSent),
            Letter::Summary {
                stream,
                claimed,
                seqs,
                entries,
            } => {
                self.feed(now, Input::Said { bytes });
                self.feed(
                    now,
                    Input::SummarySent {
                        stream,
                        claimed,
                        seqs,
                        entries,
                    },
                );
            }
            Letter::Word(_) if taken => self.feed(now, Input::Said { bytes }),
            Letter::Word(what) => {
                tracing::debug!(what, "not sent for want of room; it is said again");
            }
        }
    }

    /// Takes the buffer's answer to a question.
    pub fn answered(&mut self, now: Millis, at: Reading, answer: Answer) {
        match answer {
            Answer::Read {
                id,
                stream,
                range,
                run,
            } => self.loaded(now, at, (id, stream, range), *run),
            Answer::Summary { stream, entries } => self.summary(now, at, stream, entries),
            Answer::Folded(folded) => {
                let folded = folded.unwrap_or_else(|error| {
                    tracing::error!(%error, "the backlog cannot be summarised; it is sent as it is");
                    Folded::default()
                });
                if folded.passages > 0 {
                    tracing::info!(passages = folded.passages, "backlog summarised");
                }
                // What was folded is not to be read: the machine hears of that first.
                self.observe(now);
                self.feed(now, Input::Folded(folded));
            }
            Answer::Receipt(verdict) => self.told(verdict),
            Answer::Refused {
                stream,
                reason,
                moved,
            } => match moved {
                Ok(passages) => tracing::error!(
                    %stream,
                    passages,
                    reason = reason.word(),
                    "passages that the centre will never take were moved aside; they are kept"
                ),
                Err(error) => tracing::error!(%error, "refused passages could not be moved aside"),
            },
            Answer::SummaryRefused {
                stream,
                reason,
                lost,
            } => {
                let reason = reason.word();
                match lost {
                    Ok(0) => tracing::warn!(
                        %stream,
                        reason,
                        "the centre does not take a summary; its passages are sent as they are"
                    ),
                    Ok(passages) => tracing::error!(
                        %stream,
                        passages,
                        reason,
                        "the centre does not take a summary, and passages of it are gone: they are lost"
                    ),
                    Err(error) => tracing::error!(%error, "a refused summary could not be dropped"),
                }
                self.feed(now, Input::SummaryGivenUp);
            }
            Answer::OfferedAgain { build, passages } => match passages {
                Ok(0) => {}
                Ok(passages) => {
                    tracing::warn!(%build, passages, "passages that were moved aside are offered again");
                    self.offer_again(build);
                }
                Err(error) => tracing::error!(%error, "passages aside could not be offered again"),
            },
        }
    }

    fn loaded(
        &mut self,
        now: Millis,
        at: Reading,
        (id, stream, range): (MessageId, StreamId, SeqRange),
        run: Result<Option<StoredRun>, ReadError>,
    ) {
        let run = run.unwrap_or_else(|error| {
            tracing::error!(%stream, %range, %error, "passages cannot be read");
            None
        });
        let Some((range, batch)) = run.and_then(|run| run.within(range)) else {
            return self.feed(now, Input::Absent { id });
        };
        let state = self.state();
        let first = range.first();
        let frame = self.framer.passages(&state, at, stream, first, batch);
        let bytes = frame.len();
        self.frames.insert(id, frame);
        self.feed(now, Input::Loaded { id, range, bytes });
    }

    fn summary(
        &mut self,
        now: Millis,
        at: Reading,
        stream: StreamId,
        entries: Result<Vec<PendingSummary>, StoreStopped>,
    ) {
        let pending = entries.unwrap_or_else(|error| {
            tracing::error!(%stream, %error, "summaries cannot be read");
            Vec::new()
        });
        let entries = pending.into_iter().map(|pending| pending.entry).collect();
        let state = self.state();
        let Some(framed) = self.framer.summary(&state, at, stream, entries) else {
            return self.feed(now, Input::SummaryAbsent(stream));
        };
        let letter = Letter::Summary {
            stream,
            claimed: framed.claimed,
            seqs: framed.seqs,
            entries: framed.entries,
        };
        self.hand(framed.frame, letter);
    }

    fn told(&mut self, verdict: Result<CentreVerdict, StoreStopped>) {
        self.telling = false;
        match verdict {
            Ok(CentreVerdict::Known) => {}
            Ok(CentreVerdict::Pinned) => tracing::info!("this unit now belongs to its centre"),
            Ok(CentreVerdict::NewTimeline) => tracing::warn!(
                "the centre's database was put back in time; what is still held is sent again"
            ),
            Ok(CentreVerdict::Foreign(centre)) => tracing::error!(
                centre = %centre.id,
                timeline = centre.timeline,
                "a centre other than the pinned one answers; its words are ignored"
            ),
            Err(error) => tracing::error!(%error, "a receipt could not be taken over"),
        }
        self.tell();
        if !self.telling
            && let Some((stream, entries_max)) = self.summary_wanted.take()
        {
            self.read_summary(stream, entries_max);
        }
    }
}
