//! The one who plans and commits.
//!
//! Holds committed state for the shards that are owned, under their tokens. Shards come and go between
//! two flushes: what was known of one is thrown away with its token. Whatever makes an outcome
//! unknown, or a token another in mid-flush, ends the session: all state is thrown away, the tokens
//! are raised first, and the messages at hand are planned anew against state that is read again.
//! While the database cannot take anything, intake is closed and no more is held than was at hand.

mod flush;

use std::future::{pending, ready};
use std::time::{Duration, Instant};

use proto::receipt::Centre;
use service::ops::{Condition, Health};
use service::tasks::TaskSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::lease::{Holdings, InUse, Instance, Raise};
use super::left_over::LeftOvers;
use super::surge::Surge;
use super::turns::{TURNS, Turns};
use super::writer::Writer;
use crate::backoff::Backoff;
use crate::config::{LimitsConfig, WindowsConfig};
use crate::intake::admit::Dropped;
use crate::intake::decode::Message;
use crate::intake::lane::Lanes;
use crate::intake::mqtt::{Downlink, Gate};
use crate::metrics::Metrics;
use crate::store::connect::Target;
use crate::window::state::Memory;

/// Whether the database takes what is committed, as `/readyz` shows it.
pub const CONDITION: &str = "commit";

/// From one attempt to have the tokens raised to the next.
const RAISE_AGAIN: Duration = Duration::from_millis(200);

/// What the owner needs.
pub struct Owner {
    /// Windows and flushes.
    pub windows: WindowsConfig,
    /// Whether raw rows are stored.
    pub raw: bool,
    /// Bounds of memory.
    pub limits: LimitsConfig,
    /// Where the database is.
    pub target: Target,
    /// Who we are.
    pub instance: Instance,
    /// The connection's task.
    pub tasks: TaskSet,
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// How long a lease lasts.
    pub lease: Duration,
    /// When the leases were renewed last.
    pub renewed: watch::Receiver<Instant>,
    /// To the lease keeper.
    pub raises: mpsc::Sender<Raise>,
    /// Likewise: the tokens that the next flush may prove.
    pub in_use: watch::Sender<InUse>,
    /// Counts connections to a broker that came after another: what the one before still had to bring
    /// is lost, and the units must hear of it.
    pub relinks: watch::Receiver<u64>,
    /// From the threads that decode.
    pub messages: Lanes<flume::Receiver<Vec<Message>>>,
    /// Receipts and refusals.
    pub downlink: Downlink,
    /// Whether frames are taken.
    pub gate: watch::Sender<Gate>,
    /// For `/readyz`.
    pub health: Health,
    /// Counts.
    pub metrics: Metrics,
}

/// What outlives a session.
struct Hand {
    /// Messages of the next flush.
    pending: Vec<Message>,
    /// Live messages whose turn has not come.
    waiting: Turns,
    /// The others.
    backlog: Backlog,
    /// What the last flush did not take of either.
    left_over: LeftOvers,
    surge: Surge,
    backoff: Backoff,
}

impl Hand {
    /// Makes pending what the last flush left over, these live messages, and the backlog beside them.
    fn pend(&mut self, live: Vec<Message>) {
        self.pending = self.left_over.take();
        self.pending.extend(live);
        self.pending.append(&mut self.backlog.take());
    }
}

/// Why a session ended.
enum Ended {
    /// The program stops, and everything at hand is committed.
    Stopped,
    /// Other tokens than ours, or rows other than planned: read everything again.
    Fenced(String),
    /// The outcome of the last flush may be unknown.
    Unknown(String),
    /// Rolled back, and it would be again.
    Closed(String),
}

/// Why [`Owner::gather`] came back.
enum Gathered {
    /// A flush is due.
    Flush,
    /// Other shards are owned.
    Owned,
    /// What a broker still had to bring may be lost.
    Relinked,
    /// The program stops.
    Stopping,
}

/// One connection, one memory, and for each shard one token.
struct Session {
    writer: Writer,
    holdings: Holdings,
    centre: Centre,
    memory: Memory,
    stream_keys: Vec<i32>,
    /// Windows that begin earlier take nothing; none when it has to be read (again).
    floor_ms: Option<i64>,
    /// Devices that the database knew of the owned shards; none when they have to be counted (again).
    fleet: Option<usize>,
}

impl Owner {
    /// Commits until `stop`; then what is at hand, once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut hand = Hand {
            pending: Vec::new(),
            waiting: Turns::default(),
            backlog: Backlog::default(),
            left_over: LeftOvers::default(),
            surge: Surge::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        };
        self.close("starting".to_owned());
        while let Some(holdings) = self.owned(&mut hand, &stop).await {
            let ended = match Writer::open(&self.target, &self.instance.writer(), &self.tasks).await
            {
                Ok(writer) => self.session(writer, holdings, &mut hand, &stop).await,
                Err(error) => Ended::Closed(format!("cannot connect to the database: {error}")),
            };
            self.in_use.send_replace(InUse::new());
            match ended {
                Ended::Stopped => return,
                Ended::Fenced(reason) => {
                    self.metrics.flushed("fenced");
                    self.close(reason);
                    self.raise(true, &stop).await;
                }
                Ended::Unknown(reason) => {
                    self.metrics.flushed("unknown");
                    self.close(reason);
                    self.raise(true, &stop).await;
                }
                Ended::Closed(reason) => {
                    self.metrics.flushed("closed");
                    self.close(reason);
                }
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(hand.backoff.delay()) => {}
            }
        }
    }

    /// Waits until something is owned. As a standby, what arrives is dropped.
    async fn owned(&mut self, hand: &mut Hand, stop: &CancellationToken) -> Option<Holdings> {
        loop {
            let holdings = self.holdings.borrow_and_update().clone();
            self.show(&holdings);
            if !holdings.tokens.is_empty() {
                return Some(holdings);
            }
            self.close(standby(&holdings));
            hand.pending.clear();
            hand.waiting = Turns::default();
            hand.backlog = Backlog::default();
            hand.left_over = LeftOvers::default();
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = self.holdings.changed() => if changed.is_err() { return None },
                chunk = self.messages.either() => match chunk {
                    Ok(chunk) => chunk.iter().for_each(|_| self.metrics.dropped(Dropped::Shard)),
                    Err(_) => return None,
                },
            }
        }
    }

    /// Has the tokens raised, however long that takes: before it, what an earlier connection may still
    /// be committing is not decided.
    async fn raise(&self, end_writer: bool, stop: &CancellationToken) {
        let raised = async {
            loop {
                let (done, raised) = oneshot::channel();
                let raise = Raise { end_writer, done };
                if self.raises.send(raise).await.is_err() || raised.await.is_ok() {
                    return;
                }
                // The keeper takes no part at the moment, or has lost its connection.
                tokio::time::sleep(RAISE_AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = raised => {}
        }
    }

    async fn session(
        &mut self,
        writer: Writer,
        holdings: Holdings,
        hand: &mut Hand,
        stop: &CancellationToken,
    ) -> Ended {
        let Some(centre) = holdings.centre else {
            return Ended::Closed("it is not known yet which database this is".to_owned());
        };
        let (memory, stream_keys) = (Memory::new(), Vec::new());
        self.in_use.send_replace(holdings.tokens.clone());
        let mut session = Session {
            writer,
            holdings,
            centre,
            memory,
            stream_keys,
            floor_ms: None,
            fleet: None,
        };
        let mut ticks = tokio::time::interval(self.windows.flush_interval() / u32::from(TURNS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(ended) = self.adopt(&mut session) {
                return ended;
            }
            // What is at hand from before goes first: only when it is in is the gate opened.
            if !hand.pending.is_empty()
                && let Err(ended) = self.flush(&mut session, hand).await
            {
                return ended;
            }
            hand.backoff.reset();
            if hand.surge.is_blown() {
                let reason = "too many devices had something refused for ever: look into the log, \
                              then restart";
                self.close(reason.to_owned());
            } else {
                self.open();
            }
            match self.gather(hand, &mut ticks, stop).await {
                Gathered::Flush | Gathered::Owned => {}
                // New tokens make the units send again.
                Gathered::Relinked => self.raise(false, stop).await,
                Gathered::Stopping => {
                    self.close("stopping".to_owned());
                    return match self.drain(&mut session, hand).await {
                        Ok(()) => Ended::Stopped,
                        Err(ended) => ended,
                    };
                }
            }
        }
    }

    /// Takes over what is owned now, between two flushes: what is known of a shard goes with its token.
    fn adopt(&mut self, session: &mut Session) -> Result<(), Ended> {
        let silent = self.renewed.borrow().elapsed();
        if silent >= self.lease {
            let reason = format!("the leases were not renewed for {} ms", silent.as_millis());
            return Err(Ended::Closed(reason));
        }
        let now = self.holdings.borrow_and_update().clone();
        if now == session.holdings {
            return Ok(());
        }
        if now.centre != Some(session.centre) {
            return Err(Ended::Fenced("the database is another".to_owned()));
        }
        self.show(&now);
        if now.tokens.is_empty() {
            return Err(Ended::Closed("no shard is owned any more".to_owned()));
        }
        let before = std::mem::replace(&mut session.holdings, now);
        let now = &session.holdings.tokens;
        session.memory.keep_shards(|shard| {
            now.contains_key(&shard) && now.get(&shard) == before.tokens.get(&shard)
        });
        self.in_use.send_replace(now.clone());
        session.fleet = None;
        Ok(())
    }

    fn show(&self, holdings: &Holdings) {
        let owned = holdings.tokens.len();
        self.metrics
            .shards_owned
            .set(i64::try_from(owned).unwrap_or(0));
    }

    /// Collects messages until a flush is due, and makes those pending that it takes, or until
    /// something else is to be done between two flushes.
    async fn gather(
        &mut self,
        hand: &mut Hand,
        ticks: &mut Interval,
        stop: &CancellationToken,
    ) -> Gathered {
        let passages_max = self.windows.flush_passages_max;
        loop {
            // In this order: whatever is live and at hand comes before a flush, and a turn that is due
            // before the backlog.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Gathered::Stopping,
                changed = self.holdings.changed() => {
                    return if changed.is_ok() { Gathered::Owned } else { Gathered::Stopping };
                }
                Ok(()) = self.relinks.changed() => return Gathered::Relinked,
                chunk = self.messages.live.recv_async() => {
                    let Ok(chunk) = chunk else { return Gathered::Stopping };
                    hand.waiting.wait(chunk);
                }
                _ = ticks.tick() => {
                    let turn = hand.waiting.take_next();
                    // A flush that takes longer than a tick would be followed by one of the turn alone.
                    self.fill(&mut hand.backlog);
                    hand.pend(turn);
                    return Gathered::Flush;
                }
                chunk = self.messages.backlog.recv_async(), if hand.backlog.has_room(passages_max) => {
                    let Ok(chunk) = chunk else { return Gathered::Stopping };
                    hand.backlog.wait(chunk);
                }
                () = ready(()), if hand.backlog.is_urgent(passages_max) => {
                    hand.pend(Vec::new());
                    return Gathered::Flush;
                }
                () = until(hand.left_over.due()) => {
                    hand.pend(Vec::new());
                    return Gathered::Flush;
                }
            }
            if hand.waiting.is_full(passages_max) {
                ticks.reset();
                let turns = hand.waiting.take_all();
                hand.pend(turns);
                return Gathered::Flush;
            }
        }
    }

    /// Takes in what has been decoded of the backlog, as much as a flush takes.
    fn fill(&self, backlog: &mut Backlog) {
        while backlog.has_room(self.windows.flush_passages_max)
            && let Ok(chunk) = self.messages.backlog.try_recv()
        {
            backlog.wait(chunk);
        }
    }

    /// Commits what is at hand and what has been decoded, at the stop: one flush. What that leaves over
    /// has no receipt, and comes to the next owner.
    async fn drain(&mut self, session: &mut Session, hand: &mut Hand) -> Result<(), Ended> {
        let Lanes { live, backlog } = &self.messages;
        let mut at_hand = hand.waiting.take_all();
        at_hand.extend(live.try_iter().chain(backlog.try_iter()).flatten());
        hand.pend(at_hand);
        if hand.pending.is_empty() {
            return Ok(());
        }
        self.flush(session, hand).await
    }

    fn open(&self) {
        self.gate
            .send_if_modified(|gate| std::mem::replace(gate, Gate::Open) != Gate::Open);
        self.health.set(CONDITION, Condition::Ok);
    }

    fn close(&self, reason: String) {
        self.health
            .set(CONDITION, Condition::NotReady(reason.clone()));
        self.gate.send_if_modified(|gate| {
            let closed = Gate::Closed(reason);
            std::mem::replace(gate, closed.clone()) != closed
        });
    }
}

/// Until that moment; for ever without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// Why nothing is owned.
fn standby(holdings: &Holdings) -> String {
    if let Some(apart) = holdings.clocks {
        return format!("standby: {apart}");
    }
    let owner = holdings.other.as_deref();
    let owner = owner.unwrap_or("nobody yet, or the database is away");
    format!("standby: the shards are owned by {owner}")
}
