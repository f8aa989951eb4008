//! The handle on the buffer: each call is a command in the queue of the owner thread, and waits for its
//! answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::StreamId;
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, RefusalReason, StreamReceipt};
use service::clock::wall_millis;
use tokio::sync::{oneshot, watch};

use super::engine::Engine;
use super::owner::OwnerThread;
use super::{
    Admitted, AppendError, Appended, BufferSettings, BufferState, CentreVerdict, FoldScope, Folded,
    HandedOver, Moment, OpenError, Owner, PendingSummary, QUEUE_COMMANDS_MAX, ReadError, ReadLimit,
    StoreHealth, StoreStopped, StoredRun,
};
#[cfg(doc)]
use super::{Alarm, OFFERED_AHEAD_MAX};

/// A handle on the buffer. Clones speak to the same owner thread; it ends when all are dropped.
#[derive(Debug, Clone)]
pub struct Buffer {
    commands: flume::Sender<Command>,
    state: watch::Receiver<Arc<BufferState>>,
    offers_ahead: Arc<AtomicBool>,
}

/// What the owner thread is told or asked.
#[derive(Debug)]
pub(super) enum Command {
    Append {
        passages: Vec<Admitted>,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
    },
    Read {
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    },
    Receipt {
        centre: Centre,
        streams: Vec<StreamReceipt>,
        answer: oneshot::Sender<CentreVerdict>,
    },
    Refused {
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
        build: Option<Arc<str>>,
        answer: oneshot::Sender<u64>,
    },
    SummaryRefused {
        stream: StreamId,
        seqs: SeqSet,
        counted: SeqSet,
        answer: oneshot::Sender<u64>,
    },
    OfferAgain {
        build: Arc<str>,
        answer: oneshot::Sender<u64>,
    },
    CentreTime(EventTime),
    Fold {
        stream: StreamId,
        scope: FoldScope,
        answer: oneshot::Sender<Folded>,
    },
    Summaries {
        stream: StreamId,
        entries_max: usize,
        answer: oneshot::Sender<Vec<PendingSummary>>,
    },
}

impl Buffer {
    /// Opens the store, or makes one. Blocks for up to three times the `open_timeout`: call it
    /// before the runtime serves anything.
    ///
    /// # Errors
    /// When there is no place for a store, another process has it, or a newer agent wrote it. A
    /// damaged store is no error: it is moved aside and an [`Alarm`] says so.
    pub fn open(settings: &BufferSettings) -> Result<(Self, OwnerThread), OpenError> {
        Ok(Self::around(Engine::open(settings, wall_millis())?))
    }

    /// The buffer over a medium that is open already, without a thread: [`Owner::step`] does the work.
    ///
    /// # Errors
    /// When the medium cannot be read, or a newer agent wrote it.
    pub fn over(
        settings: &BufferSettings,
        handed: HandedOver,
        at: Moment,
    ) -> Result<(Self, Owner), OpenError> {
        let (buffer, thread) = Self::around(Engine::over(settings, handed, at.wall_ms)?);
        Ok((buffer, thread.owner(at.monotonic)))
    }

    fn around(engine: Engine) -> (Self, OwnerThread) {
        let mut engine = Box::new(engine);
        let (commands, queue) = flume::bounded(QUEUE_COMMANDS_MAX);
        let (publisher, state) = watch::channel(Arc::new(engine.state(StoreHealth::Ok)));
        let offers_ahead = Arc::<AtomicBool>::default();
        let thread = OwnerThread::new(engine, queue, publisher, Arc::clone(&offers_ahead));
        let buffer = Self {
            commands,
            state,
            offers_ahead,
        };
        (buffer, thread)
    }

    /// Makes passages durable. Resolves after the fsync that covers them. Dropping the future does
    /// not take the passages back.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the append is accepted then.
    pub async fn append(&self, passages: Vec<Admitted>) -> Result<Appended, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .try_send(Command::Append { passages, answer })
            .map_err(|error| match error {
                flume::TrySendError::Full(_) => AppendError::Overloaded,
                flume::TrySendError::Disconnected(_) => AppendError::Failed(self.why().0),
            })?;
        answered
            .await
            .map_err(|_| AppendError::Failed(self.why().0))?
    }

    /// The state after the last commit, and a signal for each further one.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<BufferState>> {
        self.state.clone()
    }

    /// Says whether passages leave as they come. Then the group commit that accepts them marks them as
    /// offered, which spares a commit for each message. While they do not it must not: what is offered
    /// cannot be folded. False at the start; a word that comes late costs only that.
    pub fn offer_ahead(&self, on: bool) {
        self.offers_ahead.store(on, Ordering::Relaxed);
    }

    /// Consecutive passages of a stream from the first held number at or after `first`, none where
    /// nothing is held there or a summary that waits for its receipt stands for it. What it hands out is durably marked as offered before; usually the
    /// group commit that accepted the passages reserved that ahead, otherwise this waits for an
    /// fsync that reserves the next [`OFFERED_AHEAD_MAX`] / 2 numbers as well.
    ///
    /// # Errors
    /// See [`ReadError`]; after `Corrupt` ask again from the number behind the range.
    pub async fn read(
        &self,
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
    ) -> Result<Option<StoredRun>, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Read {
                stream,
                first,
                limit,
                answer,
            },
            answered,
        )
        .await?
    }

    /// Takes over what the centre has committed. In force at once, durable with the next commit (a
    /// lost one only causes a duplicate at the centre). An empty list only shows the centre, as a
    /// beacon does.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn receipt(
        &self,
        centre: Centre,
        streams: Vec<StreamReceipt>,
    ) -> Result<CentreVerdict, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Receipt {
                centre,
                streams,
                answer,
            },
            answered,
        )
        .await
    }

    /// Moves passages aside that a build of the centre refused for ever and books them as lost.
    /// Resolves, with how many they were, once that is durable.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn refused(
        &self,
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
        build: Option<Arc<str>>,
    ) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Refused {
                stream,
                range,
                reason,
                build,
                answer,
            },
            answered,
        )
        .await
    }

    /// Drops the pending summaries that stand for no other numbers than these, for the centre does not
    /// take them: what is held of them is sent raw, and of the rest what it has not `counted` is booked
    /// as lost altogether. Resolves, with how many passages that were, once it is durable. What is
    /// dropped already is passed over.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn summary_refused(
        &self,
        stream: StreamId,
        seqs: SeqSet,
        counted: SeqSet,
    ) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                answer,
            },
            answered,
        )
        .await
    }

    /// Puts passages back into line that were moved aside and that this build of the centre has not
    /// refused: to each build they are offered once. Some at a time: ask again until it resolves,
    /// durably, with 0 passages.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn offer_again(&self, build: Arc<str>) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::OfferAgain { build, answer }, answered)
            .await
    }

    /// Takes over the time that the pinned centre stated; durable with a later commit, at most once
    /// an hour. Where the queue is full it is dropped: the centre states it again.
    pub fn centre_time(&self, at: EventTime) {
        self.commands.try_send(Command::CentreTime(at)).ok();
    }

    /// Folds passages that no message may have contained into window deltas, the oldest first and
    /// some at a time: ask again while there is more. Their raw form is handed out once the deltas have
    /// a receipt, or were refused. Resolves once it is durable.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn fold(&self, stream: StreamId, scope: FoldScope) -> Result<Folded, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Fold {
            stream,
            scope,
            answer,
        };
        self.ask(command, answered).await
    }

    /// The oldest entries of a stream that have no receipt. They are sealed durably before this
    /// resolves.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn pending_summaries(
        &self,
        stream: StreamId,
        entries_max: usize,
    ) -> Result<Vec<PendingSummary>, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Summaries {
                stream,
                entries_max,
                answer,
            },
            answered,
        )
        .await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answered: oneshot::Receiver<T>,
    ) -> Result<T, StoreStopped> {
        self.commands
            .send_async(command)
            .await
            .map_err(|_| self.why())?;
        answered.await.map_err(|_| self.why())
    }

    fn why(&self) -> StoreStopped {
        match &self.state.borrow().health {
            StoreHealth::Failed(why) => StoreStopped(Arc::clone(why)),
            StoreHealth::NoSpace => StoreStopped("the disk is full".into()),
            StoreHealth::Ok => StoreStopped("the agent stops".into()),
        }
    }
}
