//! The owner thread: one queue in, one group commit after the other, answers and state out.
//!
//! While a commit waits for the disk, the next group gathers in the queue: that alone shares one
//! fsync among all who wait, so dense traffic needs no waiting. Slow traffic would pay one fsync,
//! some 12 KB of flash wear, for each passage; there a group waits for the linger, or until 64
//! passages have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use proto::StreamId;
use proto::ranges::Seq;
use service::clock::{monotonic, wall_millis};
use tokio::sync::{oneshot, watch};

use super::engine::{Engine, why};
use super::keys::CHUNK_PASSAGES_MAX;
use super::medium::StoreError;
use super::{
    APPEND_PASSAGES_MAX, Admitted, AppendError, Appended, BufferSettings, BufferState, Command,
    Folded, OwnerThread, PendingSummary, ReadError, ReadLimit, StoreHealth, StoredRun,
};

/// Passages at which a group is closed although more wait.
const GROUP_PASSAGES_MAX: usize = APPEND_PASSAGES_MAX;

/// A group of at least this many passages means that traffic is dense.
const DENSE_PASSAGES: usize = 16;

/// Groups below that in a row before traffic is called slow again.
const QUIET_GROUPS: u32 = 8;

/// How long a receipt may wait for a commit to go along with.
const RECEIPT_LINGER: Duration = Duration::from_secs(1);

/// How often the disk is looked at while nothing happens, and how often after it was full.
const IDLE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// How often the disk is looked at under load.
const MEASURE: Duration = Duration::from_secs(1);

type AppendAnswer = oneshot::Sender<Result<Appended, AppendError>>;

/// What is answered after the next commit.
#[derive(Debug)]
enum Waiting {
    Read {
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    },
    Damaged {
        error: ReadError,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    },
    Folded {
        folded: Folded,
        answer: oneshot::Sender<Folded>,
    },
    Moved {
        passages: u64,
        answer: oneshot::Sender<u64>,
    },
    Summaries {
        pending: Vec<PendingSummary>,
        answer: oneshot::Sender<Vec<PendingSummary>>,
    },
}

/// The owner thread's work, one step after the other.
#[derive(Debug)]
pub struct Owner {
    settings: BufferSettings,
    /// None while the store cannot be opened again.
    engine: Option<Engine>,
    health: StoreHealth,
    commands: flume::Receiver<Command>,
    state: watch::Sender<Arc<BufferState>>,
    offers_ahead: Arc<AtomicBool>,
    commit_seconds: Histogram,
    group: Vec<(Vec<Admitted>, AppendAnswer)>,
    group_passages: usize,
    /// When the first of the group, or a receipt, came.
    since: Option<Instant>,
    waiting: Vec<Waiting>,
    quiet_groups: u32,
    measured: Instant,
}

/// What the clocks say.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For every wait.
    pub monotonic: Instant,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

impl Moment {
    fn now() -> Self {
        Self {
            monotonic: monotonic(),
            wall_ms: wall_millis(),
        }
    }
}

impl OwnerThread {
    /// Seconds that group commits take, fsync included; goes on counting while the thread runs.
    #[must_use]
    pub fn commit_seconds(&self) -> Histogram {
        self.commit_seconds.clone()
    }

    /// Serves the buffer until every [`super::Buffer`] is dropped, then writes what is left.
    pub fn run(self) {
        self.owner(monotonic()).run();
    }

    /// Its work, for whoever has a clock of his own.
    pub(super) fn owner(self, now: Instant) -> Owner {
        let Self {
            commit_seconds,
            engine,
            commands,
            state,
            offers_ahead,
        } = self;
        Owner {
            settings: engine.settings.clone(),
            engine: Some(*engine),
            health: StoreHealth::Ok,
            commands,
            state,
            offers_ahead,
            commit_seconds,
            group: Vec::new(),
            group_passages: 0,
            since: None,
            waiting: Vec::new(),
            quiet_groups: QUIET_GROUPS,
            measured: now,
        }
    }
}

impl Owner {
    fn run(mut self) {
        loop {
            let command = match self.deadline(monotonic()) {
                None => self
                    .commands
                    .try_recv()
                    .map_err(|error| error == flume::TryRecvError::Disconnected),
                Some(deadline) => self
                    .commands
                    .recv_deadline(deadline)
                    .map_err(|error| error == flume::RecvTimeoutError::Disconnected),
            };
            match command {
                Ok(command) => self.hear(command, Moment::now()),
                Err(is_over) => {
                    self.commit(Moment::now());
                    if is_over {
                        return;
                    }
                }
            }
        }
    }

    /// Takes what waits, and commits what is due. Returns when to call again if nothing comes.
    pub fn step(&mut self, at: Moment) -> Instant {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.hear(command, at);
            }
            match self.deadline(at.monotonic) {
                Some(deadline) if deadline > at.monotonic => return deadline,
                _ => self.commit(at),
            }
        }
    }

    fn hear(&mut self, command: Command, at: Moment) {
        self.take(command, at.monotonic);
        // Those who are refused ask again, and must not keep the store from healing.
        let may_heal = self.health == StoreHealth::NoSpace && self.is_time(at.monotonic);
        if self.group_passages >= GROUP_PASSAGES_MAX || may_heal {
            self.commit(at);
        }
    }

    /// Whether the disk was not looked at for a while.
    fn is_time(&self, now: Instant) -> bool {
        self.measured + MEASURE <= now
    }

    /// Until when to wait for more; none: not at all.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let since = self.since.unwrap_or(now);
        if self.health == StoreHealth::NoSpace {
            return Some(self.measured + RETRY);
        }
        let Some(engine) = &self.engine else {
            return Some(now + IDLE);
        };
        let is_dense = self.quiet_groups < QUIET_GROUPS;
        let is_full = self.group_passages >= CHUNK_PASSAGES_MAX;
        if !self.waiting.is_empty() || (!self.group.is_empty() && (is_dense || is_full)) {
            None
        } else if !self.group.is_empty() {
            Some(since + engine.settings.linger)
        } else if engine.is_dirty() {
            Some(since + RECEIPT_LINGER)
        } else {
            Some(now + IDLE)
        }
    }

    fn take(&mut self, command: Command, now: Instant) {
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
                if engine.reserve(stream, first, limit.passages) {
                    self.waiting.push(Waiting::Read {
                        stream,
                        first,
                        limit,
                        answer,
                    });
                } else {
                    self.read(stream, first, limit, answer);
                }
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
    fn answer_moved(&mut self, moved: Result<u64, StoreError>, answer: oneshot::Sender<u64>) {
        match moved {
            Ok(passages) => self.waiting.push(Waiting::Moved { passages, answer }),
            Err(error) => self.fail(&error),
        }
    }

    /// Answers while the store takes nothing. The others see their channel closed.
    fn refuse(&self, command: Command) {
        if let Command::Append { answer, .. } = command {
            answer.send(Err(self.refusal())).ok();
        }
    }

    fn refusal(&self) -> AppendError {
        match (&self.health, &self.engine) {
            (StoreHealth::Failed(why), _) => AppendError::Failed(Arc::clone(why)),
            (_, engine) => AppendError::NoSpace {
                path: self.settings.directory.clone(),
                free_bytes: engine.as_ref().map_or(0, |engine| engine.disk.free_bytes),
                floor_bytes: self.settings.free_floor_bytes,
            },
        }
    }

    fn read(
        &mut self,
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    ) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        match engine.read(stream, first, limit) {
            // The loss is durable before anybody hears of it.
            Ok(Err(error)) => self.waiting.push(Waiting::Damaged { error, answer }),
            Ok(Ok(run)) => {
                answer.send(Ok(run)).ok();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Makes the group and all that is staged durable, then answers.
    fn commit(&mut self, at: Moment) {
        if self.health == StoreHealth::NoSpace {
            self.retry(at);
        }
        let Some(engine) = self
            .engine
            .as_mut()
            .filter(|_| self.health == StoreHealth::Ok)
        else {
            return;
        };
        let is_idle = self.group.is_empty() && self.waiting.is_empty() && !engine.is_dirty();
        if is_idle {
            self.tidy(at.wall_ms);
            return;
        }
        if !self.group.is_empty() {
            let is_dense = self.group_passages >= DENSE_PASSAGES;
            self.quiet_groups = if is_dense {
                0
            } else {
                self.quiet_groups.saturating_add(1)
            };
        }
        engine.offers_ahead = self.offers_ahead.load(Ordering::Relaxed);
        let mut answers = Vec::with_capacity(self.group.len());
        let mut outcome = Ok(());
        for (passages, answer) in self.group.drain(..) {
            match engine.stage(&passages, at.wall_ms) {
                Ok(staged) => answers.push((answer, staged)),
                Err(error) => outcome = Err(error),
            }
        }
        self.group_passages = 0;
        self.since = None;
        if self.measured + MEASURE <= at.monotonic {
            self.measured = at.monotonic;
            engine.measure_disk();
            outcome = outcome.and_then(|()| engine.check());
        }
        let (began, commits) = (monotonic(), engine.counters.commits);
        match outcome.and_then(|()| engine.commit(at.wall_ms)) {
            Ok(()) => {
                if engine.counters.commits > commits {
                    self.commit_seconds.observe(began.elapsed().as_secs_f64());
                }
                // The state first: who is answered may look at it.
                self.publish();
                for (answer, staged) in answers {
                    answer.send(staged).ok();
                }
                self.answer_waiting();
            }
            Err(error) => {
                self.fail(&error);
                for (answer, _) in answers {
                    answer.send(Err(self.refusal())).ok();
                }
            }
        }
    }

    fn answer_waiting(&mut self) {
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

    /// From here on nothing is answered with success. A full disk heals, everything else needs a
    /// restart of the agent.
    fn fail(&mut self, error: &StoreError) {
        tracing::error!(%error, "store failed; passages are refused");
        self.health = match error {
            StoreError::NoSpace => StoreHealth::NoSpace,
            StoreError::Denied(_) | StoreError::Broken(_) => StoreHealth::Failed(why(error)),
        };
        if let Some(engine) = &mut self.engine {
            engine.measure_disk();
        }
        self.publish_health();
        self.waiting.clear();
    }

    /// Opens the store again, as a new run, once there is space.
    fn retry(&mut self, at: Moment) {
        self.measured = at.monotonic;
        let opened = match self.engine.take() {
            Some(mut engine) => {
                engine.measure_disk();
                if engine.disk.free_bytes == 0 || engine.is_below_floor() {
                    self.engine = Some(engine);
                    return;
                }
                engine.restart(at.wall_ms)
            }
            None => Engine::open(&self.settings, at.wall_ms),
        };
        match opened {
            Ok(engine) => {
                tracing::info!("store is open again");
                self.health = StoreHealth::Ok;
                self.resume(engine);
            }
            // Opening needs some space as well; the next try may have it.
            Err(error) => tracing::warn!(%error, "store does not open again yet"),
        }
    }

    /// Goes on with a store that was opened again.
    fn resume(&mut self, mut engine: Engine) {
        // They count from the start of the agent; what failed was never published.
        engine.counters.add(&self.state.borrow().counters);
        self.engine = Some(engine);
        self.publish();
    }

    /// What is done when there is nothing to do.
    fn tidy(&mut self, now_ms: i64) {
        let Some(mut engine) = self.engine.take() else {
            return;
        };
        engine.measure_disk();
        if !engine.is_oversized() {
            self.engine = Some(engine);
            return self.publish();
        }
        let before_bytes = engine.disk.used_bytes;
        match engine.rebuild(now_ms) {
            Ok(engine) => {
                let after_bytes = engine.disk.used_bytes;
                tracing::info!(
                    before_bytes,
                    after_bytes,
                    "store was rebuilt, for its file was large"
                );
                self.resume(engine);
            }
            Err(error) => {
                tracing::error!(%error, "store could not be rebuilt; passages are refused");
                self.health = StoreHealth::Failed(error.to_string().into());
                self.publish_health();
            }
        }
    }

    fn publish(&mut self) {
        if let Some(engine) = &mut self.engine {
            self.state
                .send_replace(Arc::new(engine.state(self.health.clone())));
        }
    }

    /// What is in memory may be ahead of the disk: only the health changes.
    fn publish_health(&mut self) {
        let health = self.health.clone();
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.health = health;
        });
    }
}
