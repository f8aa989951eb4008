//! What the driver asks of the buffer and the disk, and what it does with the answers.
//!
//! Each question runs as a future of its own; nothing here waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use proto::receipt::RefusalReason;
use proto::summary::SummaryEntry;
use proto::{EventTime, SeqRange, SeqSet, StreamId};
use rustls::ClientConfig;
use service::tls::Identity;
use tokio::task::JoinError;

use super::{Driver, READ_BYTES_MAX};
use crate::buffer::{
    CentreVerdict, Folded, PendingSummary, ReadError, ReadLimit, StoreStopped, StoredRun,
};
use crate::uplink::backoff::Millis;
use crate::uplink::exchange::Input;
use crate::uplink::flight::MessageId;
use crate::uplink::folding::Backlog;
use crate::uplink::mqtt::Link;
use crate::uplink::tls::{CredentialsError, Stamp};

pub(super) type Reply = Pin<Box<dyn Future<Output = Done> + Send>>;
type Loaded = Result<(Identity, ClientConfig), CredentialsError>;

/// What came of something that was asked for.
pub(super) enum Done {
    Read {
        id: MessageId,
        stream: StreamId,
        range: SeqRange,
        run: Box<Result<Option<StoredRun>, ReadError>>,
    },
    Summary {
        stream: StreamId,
        entries: Result<Vec<PendingSummary>, StoreStopped>,
    },
    Folded(Result<Folded, StoreStopped>),
    Receipt(Result<CentreVerdict, StoreStopped>),
    Refused {
        stream: StreamId,
        reason: RefusalReason,
        moved: Result<u64, StoreStopped>,
    },
    SummaryRefused {
        stream: StreamId,
        reason: RefusalReason,
        lost: Result<u64, StoreStopped>,
    },
    OfferedAgain {
        build: Arc<str>,
        passages: Result<u64, StoreStopped>,
    },
    Credentials {
        loaded: Box<Loaded>,
        stamp: Stamp,
    },
    Metered(std::io::Result<()>),
}

impl Driver {
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Read {
                id,
                stream,
                range,
                run,
            } => self.loaded(id, stream, range, *run),
            Done::Summary { stream, entries } => self.summary(stream, entries),
            Done::Folded(folded) => {
                let folded = folded.unwrap_or_else(|error| {
                    tracing::error!(%error, "the backlog cannot be summarised; it is sent as it is");
                    Folded::default()
                });
                if folded.passages > 0 {
                    tracing::info!(passages = folded.passages, "backlog summarised");
                }
                // What was folded is not to be read: the machine hears of that first.
                self.observe();
                self.feed(Input::Folded(folded));
            }
            Done::Receipt(verdict) => self.told(verdict),
            Done::Refused {
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
            Done::SummaryRefused {
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
                self.feed(Input::SummaryGivenUp);
            }
            Done::OfferedAgain { build, passages } => match passages {
                Ok(0) => {}
                Ok(passages) => {
                    tracing::warn!(%build, passages, "passages that were moved aside are offered again");
                    self.offer_again(build);
                }
                Err(error) => tracing::error!(%error, "passages aside could not be offered again"),
            },
            Done::Credentials { loaded, stamp } => {
                self.stamp = Some(stamp);
                self.connect(*loaded);
            }
            Done::Metered(Ok(())) => {}
            Done::Metered(Err(error)) => {
                tracing::warn!(%error, "the day's bytes cannot be written down");
            }
        }
    }

    /// Reads the certificate files off the async threads.
    pub(super) fn read_credentials(&mut self) {
        let credentials = self.credentials.clone();
        self.ask(async move {
            let stamp = credentials.stamp();
            let read = tokio::task::spawn_blocking(move || credentials.load()).await;
            let loaded = match read.map_err(JoinError::try_into_panic) {
                Ok(loaded) => loaded,
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                // The runtime ends, and this with it.
                Err(Err(_)) => std::future::pending().await,
            };
            Done::Credentials {
                loaded: Box::new(loaded),
                stamp,
            }
        });
    }

    fn connect(&mut self, loaded: Loaded) {
        match loaded {
            Ok((identity, config)) => {
                let not_after = EventTime::from_millis(identity.not_after.as_millisecond());
                self.view
                    .send_modify(|view| view.certificate_not_after = Some(not_after));
                self.link = Some(Link::connect(&self.tasks, self.address(), config));
            }
            Err(error) => self.lose(error.to_string()),
        }
    }

    pub(super) fn read(&mut self, id: MessageId, stream: StreamId, range: SeqRange) {
        let buffer = self.buffer.clone();
        let passages = usize::try_from(range.count()).unwrap_or(usize::MAX);
        let limit = ReadLimit {
            passages,
            bytes: READ_BYTES_MAX,
        };
        self.ask(async move {
            let run = Box::new(buffer.read(stream, range.first(), limit).await);
            Done::Read {
                id,
                stream,
                range,
                run,
            }
        });
    }

    fn loaded(
        &mut self,
        id: MessageId,
        stream: StreamId,
        range: SeqRange,
        run: Result<Option<StoredRun>, ReadError>,
    ) {
        let run = run.unwrap_or_else(|error| {
            tracing::error!(%stream, %range, %error, "passages cannot be read");
            None
        });
        let Some((read, batch)) = run.and_then(|run| run.within(range)) else {
            return self.feed(Input::Absent { id });
        };
        let state = self.state.borrow().clone();
        let frame = self
            .framer
            .passages(&state, self.time.read(), stream, read.first(), batch);
        let bytes = frame.len();
        self.frames.insert(id, frame);
        self.feed(Input::Loaded {
            id,
            range: read,
            bytes,
        });
    }

    pub(super) fn fold(
        &mut self,
        backlog: Backlog,
        older_than_ms: Option<Millis>,
        age_max_ms: Option<u64>,
    ) {
        let scope = backlog.scope(self.time.read().now, older_than_ms, age_max_ms);
        let buffer = self.buffer.clone();
        self.ask(async move { Done::Folded(buffer.fold(backlog.stream, scope).await) });
    }

    /// After all receipts: what they free is not to be said again.
    pub(super) fn read_summary(&mut self, stream: StreamId, entries_max: usize) {
        if self.telling {
            self.summary_wanted = Some((stream, entries_max));
            return;
        }
        let buffer = self.buffer.clone();
        self.ask(async move {
            let entries = buffer.pending_summaries(stream, entries_max).await;
            Done::Summary { stream, entries }
        });
    }

    fn summary(&mut self, stream: StreamId, entries: Result<Vec<PendingSummary>, StoreStopped>) {
        let entries: Vec<SummaryEntry> = entries.map_or_else(
            |error| {
                tracing::error!(%stream, %error, "summaries cannot be read");
                Vec::new()
            },
            |pending| pending.into_iter().map(|pending| pending.entry).collect(),
        );
        let state = self.state.borrow().clone();
        let Some(framed) = self
            .framer
            .summary(&state, self.time.read(), stream, entries)
        else {
            return self.feed(Input::SummaryAbsent(stream));
        };
        let bytes = framed.frame.len();
        let sent = self.hand(framed.frame);
        if sent {
            self.feed(Input::Said { bytes });
        }
        let (claimed, seqs, entries) = (framed.claimed, framed.seqs, framed.entries);
        self.feed(if sent {
            Input::SummarySent {
                stream,
                claimed,
                seqs,
                entries,
            }
        } else {
            Input::SummaryNotSent
        });
    }

    pub(super) fn refuse(
        &mut self,
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
        build: Option<Arc<str>>,
    ) {
        let buffer = self.buffer.clone();
        self.ask(async move {
            let moved = buffer.refused(stream, range, reason, build).await;
            Done::Refused {
                stream,
                reason,
                moved,
            }
        });
    }

    pub(super) fn refuse_summary(
        &mut self,
        stream: StreamId,
        seqs: SeqSet,
        counted: SeqSet,
        reason: RefusalReason,
    ) {
        let buffer = self.buffer.clone();
        self.ask(async move {
            let lost = buffer.summary_refused(stream, seqs, counted).await;
            Done::SummaryRefused {
                stream,
                reason,
                lost,
            }
        });
    }

    pub(super) fn offer_again(&mut self, build: Arc<str>) {
        let buffer = self.buffer.clone();
        self.ask(async move {
            let passages = buffer.offer_again(Arc::clone(&build)).await;
            Done::OfferedAgain { build, passages }
        });
    }

    /// Tells the buffer what the centre said, one word at a time so that the order is kept.
    pub(super) fn tell(&mut self) {
        if self.telling {
            return;
        }
        let Some((centre, streams)) = self.inbox.pop() else {
            return;
        };
        self.telling = true;
        let buffer = self.buffer.clone();
        self.ask(async move { Done::Receipt(buffer.receipt(centre, streams).await) });
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

    pub(super) fn ask(&self, question: impl Future<Output = Done> + Send + 'static) {
        self.replies.push(Box::pin(question));
    }
}
