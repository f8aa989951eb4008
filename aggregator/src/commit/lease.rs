//! Which shards are owned here, and under which fencing tokens.
//!
//! ```text
//!            renew, look (`table`)            holdings                   tokens in use
//! database ◄──────────────────────► keeper ──────────────► owner, broker ─────────────► keeper
//!            claim, raise, give up  `balance` says what
//! ```
//! Leases live in the database and end by its clock. A task of its own keeps them over a connection
//! of its own, so that a long flush never costs a lease. All aggregators that live share the shards
//! evenly: each claims what nobody living owns, up to its share, and gives up what it has above it,
//! one shard at a time, when its owner has let go of it between two flushes. An aggregator is taken
//! for dead when it was silent for the length of a lease, or when it has missed a renewal and its
//! session is gone (a process that was killed need not be waited for). Taking over: claim, end the
//! former owner's writer if it still runs, raise the token. Raising waits for the transaction that
//! holds it FOR SHARE: whatever was still being committed is decided afterwards.
//!
//! Invariants: a token that was given out is never given out again, and is raised only by who owns the
//! shard at that moment; holdings are published only after the raise; a shard is given up only when
//! nothing plans for it; whoever cannot renew for the length of a lease owns nothing, and neither does
//! whoever has another clock than the database (`clock`).

pub mod balance;
mod clock;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::receipt::Centre;
use proto::topic::Shard;
use service::clock::monotonic;
use service::tasks::TaskSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

pub use self::clock::ClocksApart;
use self::table::{CHANNEL, Table, View, identify};
use crate::backoff::Backoff;
use crate::config::LeaseConfig;
use crate::metrics::Metrics;
use crate::store::connect::{ConnectionError, Target, answered};

/// Until a statement about leases counts as failed. Raising a token may wait for a flush.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Until a server that answers nothing, not even that it has cancelled a statement, is left.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);

/// What is owned here. Published whenever it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Which database this is; none before it was reached.
    pub centre: Option<Centre>,
    /// Each owned shard with its token.
    pub tokens: BTreeMap<Shard, i64>,
    /// Somebody else who lives.
    pub other: Option<String>,
    /// Whether this one takes part. An older one of the same name, who lives, goes before: then not
    /// even the broker is connected, since it would throw that one out.
    pub takes_part: bool,
    /// Why it takes no part, if that is the clock.
    pub clocks: Option<ClocksApart>,
}

/// Asks for the tokens of all owned shards to be raised.
#[derive(Debug)]
pub struct Raise {
    /// Whether an own writer may still be committing: it is ended before.
    pub end_writer: bool,
    /// Answered when that is done, dropped when the connection failed.
    pub done: oneshot::Sender<()>,
}

/// Requests that may wait; the owner sends one at a time.
pub const RAISES_MAX: usize = 1;

/// Tokens that the owner may use in a flush; none between two sessions.
pub type InUse = BTreeMap<Shard, i64>;

/// This process among all that were ever started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    nonce: String,
}

impl Instance {
    /// `name` is for people, without spaces; the nonce makes it unique.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(name: &str) -> Result<Self, getrandom::Error> {
        Ok(Self {
            name: name.to_owned(),
            nonce: format!("{:016x}", getrandom::u64()?),
        })
    }

    /// What `shard_lease.owner` shows: the last word is the nonce.
    #[must_use]
    pub fn owner(&self) -> String {
        format!("{} pid {} {}", self.name, std::process::id(), self.nonce)
    }

    /// The application name of its writer.
    #[must_use]
    pub fn writer(&self) -> String {
        writer_of(&self.owner())
    }

    fn session(&self) -> String {
        format!("verst-lease {}", self.nonce)
    }
}

fn writer_of(owner: &str) -> String {
    format!("verst-writer {}", owner.rsplit(' ').next().unwrap_or(owner))
}

/// The task that holds the leases.
pub struct LeaseKeeper {
    /// Where the database is.
    pub target: Target,
    /// Who we are.
    pub instance: Instance,
    /// How long and how often.
    pub settings: LeaseConfig,
    /// Where holdings are published.
    pub holdings: watch::Sender<Holdings>,
    /// When the leases were renewed last.
    pub renewed: watch::Sender<Instant>,
    /// Requests of the owner.
    pub raises: mpsc::Receiver<Raise>,
    /// What the owner uses.
    pub in_use: watch::Receiver<InUse>,
    /// Brokers that are reached.
    pub brokers: watch::Receiver<u16>,
    /// This machine's clock, ms since 1970.
    pub wall_millis: fn() -> i64,
    /// Counts.
    pub metrics: Metrics,
    /// The connection's task.
    pub tasks: TaskSet,
}

/// One connection of the keeper.
struct Session {
    client: Client,
    /// Whether it is known which database this is.
    identified: bool,
    /// A shard that is given up as soon as the owner has let go of it.
    leaving: Option<Shard>,
    /// The brokers that the others know to be reached here.
    brokers_told: Option<u16>,
}

impl LeaseKeeper {
    /// Holds what can be had until `stop`, then gives it back.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), self.settings.renew());
        while !stop.is_cancelled() {
            let (news_in, mut news) = mpsc::channel(1);
            let connected = self
                .target
                .connect_hearing(&self.instance.session(), &self.tasks, news_in)
                .await;
            let error = match connected {
                Ok(client) => match self.keep(client, &mut news, &mut backoff, &stop).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, "cannot keep the leases; trying again");
            if self.renewed.borrow().elapsed() >= self.settings.ttl() {
                self.publish(|holdings| holdings.tokens.clear());
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(backoff.delay()) => {}
            }
        }
    }

    /// Keeps the leases over one connection until `stop`.
    async fn keep(
        &mut self,
        client: Client,
        news: &mut mpsc::Receiver<()>,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), ConnectionError> {
        let mut session = Session {
            client,
            identified: false,
            leaving: None,
            brokers_told: None,
        };
        answered(ROUND_TIMEOUT, self.begin(&session)).await?;
        let mut ticks = tokio::time::interval(self.settings.renew());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let raise = tokio::select! {
                () = stop.cancelled() => {
                    answered(ROUND_TIMEOUT, self.table(&session).leave()).await?;
                    self.publish(|holdings| holdings.tokens.clear());
                    return Ok(());
                }
                _ = ticks.tick() => None,
                Some(raise) = self.raises.recv() => Some(raise),
                Some(()) = news.recv() => None,
                Ok(()) = self.in_use.changed(), if session.leaving.is_some() => None,
                Ok(()) = self.brokers.changed() => None,
            };
            let begun = monotonic();
            answered(ROUND_TIMEOUT, self.look_round(&mut session, raise)).await?;
            self.renewed.send_replace(begun);
            backoff.reset();
        }
    }

    /// What is said first over a connection.
    async fn begin(&self, session: &Session) -> Result<(), Error> {
        let client = &session.client;
        limit_statements(client, STATEMENT_TIMEOUT).await?;
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        // What an earlier connection has claimed and not raised, or was about to give up.
        self.table(session).keep_only(&self.held()).await?;
        self.table(session).tidy().await
    }

    async fn look_round(
        &mut self,
        session: &mut Session,
        raise: Option<Raise>,
    ) -> Result<(), Error> {
        if self.takes_part(session).await? {
            self.round(session, raise).await?;
        }
        Ok(())
    }

    const fn table<'a>(&'a self, session: &'a Session) -> Table<'a> {
        Table {
            client: &session.client,
            instance: &self.instance,
        }
    }

    /// Whether the clock can be believed and no older one of this name lives; then says that this one
    /// lives.
    async fn takes_part(&mut self, session: &mut Session) -> Result<bool, Error> {
        let table = self.table(session);
        let asked_ms = (self.wall_millis)();
        let database_ms = table.clock_ms().await?;
        if let Some(apart) = ClocksApart::found(asked_ms, database_ms, (self.wall_millis)()) {
            if self.holdings.borrow().clocks.is_none() {
                tracing::error!(%apart, "wrong clock; standing by");
                table.leave().await?;
            }
            session.brokers_told = None;
            session.leaving = None;
            self.publish(|holdings| {
                holdings.tokens.clear();
                holdings.takes_part = false;
                holdings.clocks = Some(apart);
            });
            return Ok(false);
        }
        // Not before: a new timeline is drawn from the database's clock.
        if !session.identified {
            let centre = identify(&session.client).await?;
            self.publish(|holdings| holdings.centre = Some(centre));
            session.identified = true;
        }
        let table = self.table(session);
        if let Some(older) = table.namesake().await? {
            if self.holdings.borrow().takes_part {
                tracing::error!(older, "another aggregator has this name; standing by");
                table.leave().await?;
            }
            session.brokers_told = None;
            self.publish(|holdings| {
                holdings.tokens.clear();
                holdings.takes_part = false;
                holdings.clocks = None;
                holdings.other = Some(older);
            });
            return Ok(false);
        }
        let brokers = *self.brokers.borrow_and_update();
        let news = session.brokers_told != Some(brokers);
        let told = i16::try_from(brokers).unwrap_or(i16::MAX);
        self.table(session)
            .renew(&self.settings, told, news)
            .await?;
        session.brokers_told = Some(brokers);
        self.publish(|holdings| {
            holdings.takes_part = true;
            holdings.clocks = None;
        });
        Ok(true)
    }

    /// Raises when asked, then moves towards an even share.
    async fn round(&mut self, session: &mut Session, raise: Option<Raise>) -> Result<(), Error> {
        let mut view = self.look(session).await?;
        if let Some(raise) = raise {
            let table = self.table(session);
            if raise.end_writer {
                let me = self.instance.owner();
                table.end_writers(BTreeSet::from([me.as_str()])).await;
            }
            let tokens = table.raise(&self.held()).await?;
            tracing::info!(shards = tokens.len(), "shards owned under new tokens");
            self.publish(|holdings| holdings.tokens = tokens);
            // A requester that is gone needs no answer.
            raise.done.send(()).ok();
        }
        if let Some(shard) = session.leaving {
            if self.in_use.borrow_and_update().contains_key(&shard) {
                return Ok(());
            }
            self.table(session).keep_only(&self.held()).await?;
            session.leaving = None;
            view = self.look(session).await?;
        }
        let me = self.instance.owner();
        let moves = balance::moves(&me, &view.members(), &view.shards());
        if !moves.claim.is_empty() {
            self.claim(session, &moves.claim).await?;
        }
        if let Some(shard) = moves.release {
            tracing::info!(%shard, "giving a shard up to another aggregator");
            self.metrics.shards_released.inc();
            session.leaving = Some(shard);
            // The owner lets go of it between two flushes, and says so.
            self.publish(|holdings| {
                holdings.tokens.remove(&shard);
            });
        }
        Ok(())
    }

    /// Who lives and owns what; forgets what was taken over by another.
    async fn look(&self, session: &Session) -> Result<View, Error> {
        let view = self.table(session).look().await?;
        let me = self.instance.owner();
        let shards = view.shards();
        let lost = self
            .held()
            .iter()
            .filter(|shard| shards.get(shard) != Some(&Some(me.as_str())))
            .count();
        if lost > 0 {
            tracing::error!(lost, "leases were taken over by another");
            self.metrics.leases_lost.inc_by(lost as u64);
        }
        self.metrics.aggregators(view.members().len());
        self.publish(|holdings| {
            holdings
                .tokens
                .retain(|shard, _| shards.get(shard) == Some(&Some(me.as_str())));
            holdings.other = view.other_than(&me);
        });
        Ok(view)
    }

    async fn claim(&self, session: &Session, shards: &[Shard]) -> Result<(), Error> {
        let table = self.table(session);
        let claimed = table.claim(shards).await?;
        let before: BTreeSet<&str> = claimed
            .iter()
            .filter_map(|claimed| claimed.owner.as_deref())
            .collect();
        if !before.is_empty() {
            tracing::warn!(owners = ?before, shards = claimed.len(), "taking over from the dead");
        }
        table.end_writers(before).await;
        let shards: Vec<Shard> = claimed.iter().map(|claimed| claimed.shard).collect();
        let tokens = table.raise(&shards).await?;
        tracing::info!(shards = tokens.len(), "shards owned under new tokens");
        for claimed in &claimed {
            self.metrics.took_over(claimed.takeover.word());
        }
        self.publish(|holdings| holdings.tokens.extend(tokens));
        table.notify().await
    }

    fn publish(&self, change: impl FnOnce(&mut Holdings)) {
        self.holdings.send_if_modified(|holdings| {
            let before = holdings.clone();
            change(holdings);
            *holdings != before
        });
    }

    fn held(&self) -> Vec<Shard> {
        self.holdings.borrow().tokens.keys().copied().collect()
    }
}

/// Has the server cancel statements that take longer.
async fn limit_statements(client: &Client, timeout: Duration) -> Result<(), Error> {
    let set = format!("SET statement_timeout = {}", timeout.as_millis());
    client.batch_execute(&set).await
}

#[cfg(test)]
mod tests {
    use tokio_postgres::error::SqlState;

    use super::super::database_tests::Base;
    use super::*;

    #[tokio::test]
    async fn a_statement_about_leases_that_takes_too_long_is_cancelled() {
        let base = Base::new().await;
        limit_statements(&base.client, Duration::from_millis(1))
            .await
            .unwrap();
        let error = base.client.execute("SELECT pg_sleep(600)", &[]).await;
        let cancelled = error.unwrap_err();
        assert_eq!(cancelled.code(), Some(&SqlState::QUERY_CANCELED));
        limit_statements(&base.client, STATEMENT_TIMEOUT)
            .await
            .unwrap();
        let shown = base.client.query_one("SHOW statement_timeout", &[]).await;
        assert_eq!(shown.unwrap().get::<_, String>(0), "20s");
    }
}
