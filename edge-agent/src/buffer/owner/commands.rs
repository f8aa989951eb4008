//! What each command does at once, and what of it waits for the next commit to be answered.

use std::sync::Arc;
use std::time::Instant;

use proto::StreamId;
use proto::ranges::Seq;
use tokio::sync::oneshot;

use super::{Owner, Waiting};
use crate::buffer::handle::Command;
use crate::buffer::medium::StoreError;
use crate::buffer::{AppendError, ReadError, ReadLimit, StoreHealth, StoredRun};

impl Owner {
    pub(super) fn take(&mut self, command: Command, now: Instant) {
        let Some(engine) = self
            .engine
            .as_mut()
            .filter(|_| self.health == StoreHealth::Ok)
        else {
            self.refuse(command);
            return;
        };
        match command {
            Command::Append { passages, answer } => {
                self.group_passages += passages.len();
                self.group.push((passages, answer));
                self.since.get_or_insert(now);
            }
            Command::Read {
                stream,
                first,
                limit,
                answer,
            } => {
                self.read(stream, first, limit, answer);
            }
            Command::Receipt {
                centre,
                streams,
                answer,
            } => {
                let verdict = engine.receipt(centre, &streams);
                self.since.get_or_insert(now);
                self.publish();
                answer.send(verdict).ok();
            }
            Command::Refused {
                stream,
                range,
                reason,
                build,
                answer,
            } => {
                tracing::error!(%stream, %range, reason = reason.word(), "passages refused for ever are moved aside");
                let moved = engine.refuse(stream, range, build.as_deref());
                self.answer_moved(moved, answer);
            }
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                answer,
            } => {
                let passages = engine.refuse_summary(stream, &seqs, &counted);
                self.answer_moved(Ok(passages), answer);
            }
            Command::OfferAgain { build, answer } => {
                let moved = engine.offer_again(&build);
                self.answer_moved(moved, answer);
            }
            Command::CentreTime(at) => {
                engine.centre_time(at);
                self.since.get_or_insert(now);
            }
            Command::Fold {
                stream,
                scope,
                answer,
            } => match engine.fold(stream, &scope) {
                Ok(folded) => self.waiting.push(Waiting::Folded { folded, answer }),
                Err(error) => self.fail(&error),
            },
            Command::Summaries {
                stream,
                entries_max,
                answer,
            } => match engine.seal(stream, entries_max) {
                Ok((pending, false)) => {
                    answer.send(pending).ok();
                }
                Ok((pending, true)) => {
                    self.waiting.push(Waiting::Summaries { pending, answer });
                }
                Err(error) => self.fail(&error),
            },
        }
    }

    /// What was moved is durable before anybody hears of it.
    pub(super) fn answer_moved(
        &mut self,
        moved: Result<u64, StoreError>,
        answer: oneshot::Sender<u64>,
    ) {
        match moved {
            Ok(passages) => self.waiting.push(Waiting::Moved { passages, answer }),
            Err(error) => self.fail(&error),
        }
    }

    /// Answers while the store takes nothing. The others see their channel closed.
    pub(super) fn refuse(&self, command: Command) {
        if let Command::Append { answer, .. } = command {
            answer.send(Err(self.refusal())).ok();
        }
    }

    pub(super) fn refusal(&self) -> AppendError {
        match (&self.health, &self.engine) {
            (StoreHealth::Failed(why), _) => AppendError::Failed(Arc::clone(why)),
            (_, engine) => AppendError::NoSpace {
                path: self.settings.directory.clone(),
                free_bytes: engine.as_ref().map_or(0, |engine| engine.disk.free_bytes),
                floor_bytes: self.settings.free_floor_bytes,
            },
        }
    }

    pub(super) fn read(
        &mut self,
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    ) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        // Also where a commit was waited for: what it took away may have moved on what is read.
        if engine.reserve(stream, first, limit.passages) {
            self.waiting.push(Waiting::Read {
                stream,
                first,
                limit,
                answer,
            });
            return;
        }
        match engine.read(stream, first, limit) {
            // The loss is durable before anybody hears of it.
            Ok(Err(error)) => self.waiting.push(Waiting::Damaged { error, answer }),
            Ok(Ok(run)) => {
                answer.send(Ok(run)).ok();
            }
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Read {
                    stream,
                    first,
                    limit,
                    answer,
                } => {
                    self.read(stream, first, limit, answer);
                }
                Waiting::Damaged { error, answer } => {
                    answer.send(Err(error)).ok();
                }
                Waiting::Folded { folded, answer } => {
                    answer.send(folded).ok();
                }
                Waiting::Moved { passages, answer } => {
                    answer.send(passages).ok();
                }
                Waiting::Summaries { pending, answer } => {
                    answer.send(pending).ok();
                }
            }
        }
    }
}
