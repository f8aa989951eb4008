//! ● What the agent's driver does between machine, buffer and link, in its order.

use std::sync::Arc;

use edge_agent::buffer::{PendingSummary, ReadError, ReadLimit, StoreStopped, StoredRun};
use edge_agent::uplink::exchange::{Command, Input};
use edge_agent::uplink::flight::MessageId;
use proto::heartbeat::CameraLink;
use proto::receipt::Correction;
use proto::{EventTime, SeqRange, StreamId};

use super::super::stage::{Event, Stage, UnitEvent};
use super::{Done, Unit};

/// Stored bytes read for one message, as in the driver.
const READ_BYTES_MAX: usize = 24 * 1024;

impl Unit {
    pub(super) fn done(&mut self, stage: &mut Stage, done: Done) {
        match done {
            Done::Posted { times, appended } => match appended {
                Ok(_) => {
                    stage.oracle.answered(self.place, &times);
                    self.camera.answered();
                }
                Err(error) => {
                    stage.say(format_args!("{}: post refused: {error}", self.name));
                    self.camera.unanswered();
                }
            },
            Done::Read {
                id,
                stream,
                range,
                run,
            } => self.loaded(stage, id, stream, range, *run),
            Done::Summary(stream, entries) => self.summary(stage, stream, entries),
            Done::Folded(folded) => {
                // What was folded is not to be read: the machine hears of that first.
                let state = self.running.as_mut().map(|running| {
                    let state = running.state.borrow_and_update();
                    Arc::clone(&state)
                });
                let observed = state.map(Input::Buffer);
                observed
                    .into_iter()
                    .for_each(|observed| self.feed(stage, observed));
                self.feed(stage, Input::Folded(folded.unwrap_or_default()));
            }
            Done::Receipt => {
                if let Some(running) = &mut self.running {
                    running.telling = false;
                }
                self.tell(stage);
            }
            Done::Refused => {}
            Done::SummaryRefused => self.feed(stage, Input::SummaryGivenUp),
            Done::OfferedAgain(build, passages) => {
                if passages.is_ok_and(|passages| passages > 0) {
                    self.offer_again(stage, build);
                }
            }
        }
    }

    /// Tells the machine, and does what it wants.
    pub(super) fn feed(&mut self, stage: &mut Stage, input: Input) {
        let Some(running) = &mut self.running else {
            return;
        };
        let now = stage.now() - running.began;
        running.machine.handle(now, input);
        while let Some(command) = self.running.as_mut().and_then(|r| r.machine.poll()) {
            self.obey(stage, command);
        }
        if let Some(running) = &mut self.running
            && let Some(timeout) = running.machine.timeout(now)
        {
            let at = (running.began + timeout).max(stage.now());
            let is_pending = running.uplink_at <= at && running.uplink_at > stage.now();
            if !is_pending {
                running.uplink_at = at;
                let event = Event::Unit(self.place, self.life, UnitEvent::Uplink);
                stage.queue.at(at.max(stage.now() + 1), event);
            }
        }
    }

    fn obey(&mut self, stage: &mut Stage, command: Command) {
        let at = self.reading(stage.now());
        match command {
            Command::Connect => {
                let takes = stage.dice.between(5, 3_000);
                self.later(stage, takes, UnitEvent::Dial);
            }
            Command::Read { id, stream, range } => {
                let passages = usize::try_from(range.count()).unwrap_or(usize::MAX);
                let limit = ReadLimit {
                    passages,
                    bytes: READ_BYTES_MAX,
                };
                self.ask(stage, move |buffer| async move {
                    let run = Box::new(buffer.read(stream, range.first(), limit).await);
                    Done::Read {
                        id,
                        stream,
                        range,
                        run,
                    }
                });
            }
            Command::Publish(id) => self.publish(stage, id),
            Command::Forget(id) => {
                if let Some(running) = &mut self.running {
                    running.frames.remove(&id);
                }
            }
            Command::Summary(stream, entries_max) => self.read_summary(stage, stream, entries_max),
            Command::Fold {
                backlog,
                older_than_ms,
                age_max_ms,
            } => {
                let scope = backlog.scope(at.now, older_than_ms, age_max_ms);
                self.ask(stage, move |buffer| async move {
                    Done::Folded(buffer.fold(backlog.stream, scope).await)
                });
            }
            Command::Losses(stream, losses) => {
                if let Some(running) = &mut self.running {
                    let state = running.state.borrow().clone();
                    let frame = running.framer.losses(&state, at, stream, losses);
                    frame.into_iter().for_each(|frame| self.speak(stage, frame));
                }
            }
            Command::Heartbeat => {
                if let Some(running) = &mut self.running {
                    let state = running.state.borrow().clone();
                    let frame = running
                        .framer
                        .heartbeat(&state, at, CameraLink::Unknown, None);
                    self.speak(stage, frame);
                }
            }
            Command::Receipt(centre, streams) => {
                if let Some(running) = &mut self.running {
                    running.inbox.push(centre, streams);
                }
                self.tell(stage);
            }
            Command::Refused {
                stream,
                range,
                reason,
                build,
            } => self.ask(stage, move |buffer| async move {
                buffer.refused(stream, range, reason, build).await.ok();
                Done::Refused
            }),
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                ..
            } => self.ask(stage, move |buffer| async move {
                buffer.summary_refused(stream, seqs, counted).await.ok();
                Done::SummaryRefused
            }),
            Command::OfferAgain(build) => self.offer_again(stage, build),
            Command::CentreTime(at) => self.take_time(stage, at),
            Command::Corrected(correction) => self.correct(stage, correction),
        }
    }

    fn take_time(&mut self, stage: &mut Stage, at: EventTime) {
        if let Some(running) = &mut self.running {
            running.known.not_before(at, stage.now() - running.began);
            running.buffer.centre_time(at);
        }
        self.ask_turn(stage);
    }

    /// Takes over what the centre knows better.
    fn correct(&mut self, stage: &mut Stage, correction: Option<Correction>) {
        if let Some(running) = &mut self.running {
            let elapsed = stage.now() - running.began;
            running
                .known
                .corrected(correction.map(|told| told.at), elapsed);
            if let Some(told) = correction {
                running.framer.exceed(told.run, told.counter);
            }
        }
        if let Some(told) = correction {
            self.take_time(stage, told.at);
        }
    }

    /// After all receipts: what they free is not to be said again.
    fn read_summary(&mut self, stage: &mut Stage, stream: StreamId, entries_max: usize) {
        if let Some(running) = self.running.as_mut().filter(|running| running.telling) {
            running.summary_wanted = Some((stream, entries_max));
            return;
        }
        self.ask(stage, move |buffer| async move {
            Done::Summary(stream, buffer.pending_summaries(stream, entries_max).await)
        });
    }

    fn loaded(
        &mut self,
        stage: &mut Stage,
        id: MessageId,
        stream: StreamId,
        range: SeqRange,
        run: Result<Option<StoredRun>, ReadError>,
    ) {
        let at = self.reading(stage.now());
        let run = run
            .unwrap_or_default()
            .filter(|run| run.first == range.first());
        let read = run.and_then(|run| {
            let read = SeqRange::from_count(run.first, run.batch.len() as u64).ok()?;
            (read.last() <= range.last()).then_some((read, run.batch))
        });
        let (Some((read, batch)), Some(running)) = (read, &mut self.running) else {
            return self.feed(stage, Input::Absent { id });
        };
        let state = running.state.borrow().clone();
        let first = read.first();
        let frame = running.framer.passages(&state, at, stream, first, batch);
        let bytes = frame.len();
        running.frames.insert(id, frame);
        let range = read;
        self.feed(stage, Input::Loaded { id, range, bytes });
    }

    fn summary(
        &mut self,
        stage: &mut Stage,
        stream: StreamId,
        entries: Result<Vec<PendingSummary>, StoreStopped>,
    ) {
        let at = self.reading(stage.now());
        let entries = entries.unwrap_or_default();
        let entries = entries.into_iter().map(|pending| pending.entry).collect();
        let Some(running) = &mut self.running else {
            return;
        };
        let state = running.state.borrow().clone();
        let Some(framed) = running.framer.summary(&state, at, stream, entries) else {
            return self.feed(stage, Input::SummaryAbsent(stream));
        };
        let bytes = framed.frame.len();
        let sent = self.send(stage, framed.frame);
        if sent {
            self.feed(stage, Input::Said { bytes });
        }
        let (claimed, seqs, entries) = (framed.claimed, framed.seqs, framed.entries);
        let input = if sent {
            Input::SummarySent {
                stream,
                claimed,
                seqs,
                entries,
            }
        } else {
            Input::SummaryNotSent
        };
        self.feed(stage, input);
    }

    fn publish(&mut self, stage: &mut Stage, id: MessageId) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(frame) = running.frames.remove(&id) else {
            return;
        };
        if !self.send(stage, frame.clone()) {
            if let Some(running) = &mut self.running {
                running.frames.insert(id, frame);
            }
            self.feed(stage, Input::NotPublished { id });
        }
    }

    /// Publishes something that is said again anyway.
    fn speak(&mut self, stage: &mut Stage, frame: Vec<u8>) {
        let bytes = frame.len();
        if self.send(stage, frame) {
            self.feed(stage, Input::Said { bytes });
        }
    }

    fn offer_again(&mut self, stage: &mut Stage, build: Arc<str>) {
        self.ask(stage, move |buffer| async move {
            let passages = buffer.offer_again(Arc::clone(&build)).await;
            Done::OfferedAgain(build, passages)
        });
    }

    /// Tells the buffer what the centre said, one word at a time.
    fn tell(&mut self, stage: &mut Stage) {
        let Some(running) = self.running.as_mut().filter(|running| !running.telling) else {
            return;
        };
        let Some((centre, streams)) = running.inbox.pop() else {
            let wanted = running.summary_wanted.take();
            return wanted.into_iter().for_each(|(stream, entries_max)| {
                self.read_summary(stage, stream, entries_max);
            });
        };
        running.telling = true;
        self.ask(stage, move |buffer| async move {
            buffer.receipt(centre, streams).await.ok();
            Done::Receipt
        });
    }
}
