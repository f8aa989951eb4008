//! The owner thread: one queue in, one group commit after the other, answers and state out.
//!
//! While a commit waits for the disk, the next group gathers in the queue: that alone shares one
//! fsync among all who wait, so dense traffic needs no waiting. Slow traffic would pay one fsync,
//! some 12 KB of flash wear, for each passage; there a group waits for the linger, or until 64
//! passages have come.

mod commands;
mod health;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use proto::StreamId;
use proto::ranges::Seq;
use service::clock::{monotonic, wall_millis};
use tokio::sync::{oneshot, watch};

use super::engine::Engine;
use super::handle::Command;
use super::keys::CHUNK_PASSAGES_MAX;
use super::{
    APPEND_PASSAGES_MAX, Admitted, AppendError, Appended, BufferSettings, BufferState, Folded,
    PendingSummary, ReadError, ReadLimit, StoreHealth, StoredRun,
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

/// Seconds that group commits take: from an SSD to an SD card that is busy with itself.
const COMMIT_SECONDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

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

/// The thread's part: hand it to `TaskSet::spawn_blocking_thread("buffer", move || owner.run())`.
#[derive(Debug)]
pub struct OwnerThread {
    commit_seconds: Histogram,
    engine: Box<Engine>,
    commands: flume::Receiver<Command>,
    state: watch::Sender<Arc<BufferState>>,
    offers_ahead: Arc<AtomicBool>,
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
    /// With the other ends of the handle.
    pub(super) fn new(
        engine: Box<Engine>,
        commands: flume::Receiver<Command>,
        state: watch::Sender<Arc<BufferState>>,
        offers_ahead: Arc<AtomicBool>,
    ) -> Self {
        Self {
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            engine,
            commands,
            state,
            offers_ahead,
        }
    }

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
}
