//! Which shards are owned here, and under which fencing tokens.
//!
//! Leases live in the database and expire by its clock. A task of its own renews them on a connection
//! of its own, so that a long flush never costs a lease. A shard is taken over when its lease has
//! expired, or when its owner has missed a renewal and its session is gone (a process that was killed
//! need not be waited for). Taking over: claim the lease, end the former owner's writer if it still
//! runs, raise the token. Raising waits for the transaction that holds it FOR SHARE: whatever was
//! still being committed is decided afterwards.
//!
//! Invariants: a token that was given out is never given out again; holdings are published only after
//! the raise; whoever cannot renew for the length of a lease owns nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::device::CentreId;
use proto::receipt::Centre;
use proto::topic::Shard;
use service::clock::monotonic;
use service::tasks::TaskSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::LeaseConfig;
use crate::store::connect::Target;

/// Until a statement about leases counts as failed. Raising a token may wait for a flush.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// What is owned here. Published whenever it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Which database this is; none before it was reached.
    pub centre: Option<Centre>,
    /// Each owned shard with its token.
    pub tokens: BTreeMap<Shard, i64>,
    /// Somebody who owns a shard that we do not.
    pub other: Option<String>,
}

/// Asks for the tokens of all owned shards to be raised; answered when that is done, or dropped when
/// the lease is gone.
pub type Raise = oneshot::Sender<()>;

/// Requests that may wait; the owner sends one at a time.
pub const RAISES_MAX: usize = 1;

/// This process among all that were ever started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    nonce: String,
}

impl Instance {
    /// `name` is for people; the nonce makes it unique.
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
    /// Requests of the owner.
    pub raises: mpsc::Receiver<Raise>,
    /// The connection's task.
    pub tasks: TaskSet,
}

impl LeaseKeeper {
    /// Holds what can be had until `stop`, then gives it back.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), self.settings.renew());
        let mut renewed = monotonic();
        while !stop.is_cancelled() {
            let error = match self
                .target
                .connect(&self.instance.session(), &self.tasks)
                .await
            {
                Ok(client) => match self.keep(&client, &mut renewed, &mut backoff, &stop).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, "cannot keep the leases; trying again");
            self.expire(renewed);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(backoff.delay()) => {}
            }
        }
    }

    /// Keeps the leases over one connection until `stop`.
    async fn keep(
        &mut self,
        client: &Client,
        renewed: &mut Instant,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let timeout = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
        client.batch_execute(&timeout).await?;
        let centre = identify(client).await?;
        self.publish(|holdings| holdings.centre = Some(centre));
        let mut ticks = tokio::time::interval(self.settings.renew());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let raise = tokio::select! {
                () = stop.cancelled() => {
                    return self.release(client).await;
                }
                _ = ticks.tick() => None,
                Some(raise) = self.raises.recv() => Some(raise),
            };
            let begun = monotonic();
            self.renew(client).await?;
            if let Some(raise) = raise {
                self.raise_all(client).await?;
                // A requester that is gone needs no answer.
                raise.send(()).ok();
            }
            self.acquire(client).await?;
            *renewed = begun;
            backoff.reset();
        }
    }

    async fn renew(&self, client: &Client) -> Result<(), Error> {
        let held = self.held();
        if held.is_empty() {
            return Ok(());
        }
        let rows = client
            .query(
                "UPDATE shard_lease SET expires_at = clock_timestamp() + $3 * interval '1 ms'
                 WHERE shard = ANY($1) AND owner = $2 RETURNING shard",
                &[&held, &self.instance.owner(), &self.ttl_ms()],
            )
            .await?;
        let kept: Vec<i16> = rows.iter().map(|row| row.get(0)).collect();
        if kept.len() < held.len() {
            tracing::error!(
                lost = held.len() - kept.len(),
                "leases were taken over by another"
            );
            self.publish(|holdings| {
                holdings
                    .tokens
                    .retain(|shard, _| kept.contains(&shard.get().into()));
            });
        }
        Ok(())
    }

    async fn acquire(&self, client: &Client) -> Result<(), Error> {
        let held = self.held();
        if held.len() == usize::from(Shard::COUNT) {
            return Ok(());
        }
        let missed = self
            .settings
            .ttl()
            .saturating_sub(self.settings.renew() * 3 / 2);
        let missed_ms = f64::from(u32::try_from(missed.as_millis()).unwrap_or(u32::MAX));
        let rows = client
            .query(
                "WITH free AS (
                     SELECT shard, owner FROM shard_lease l
                     WHERE shard <> ALL($1) AND (
                         expires_at < clock_timestamp() OR owner IS NULL OR owner = $2
                         OR expires_at < clock_timestamp() + $4 * interval '1 ms' AND NOT EXISTS (
                             SELECT FROM pg_stat_activity a WHERE a.application_name =
                                 'verst-lease ' || split_part(l.owner, ' ', -1)))
                     ORDER BY shard FOR UPDATE SKIP LOCKED
                 )
                 UPDATE shard_lease l SET owner = $2,
                     expires_at = clock_timestamp() + $3 * interval '1 ms'
                 FROM free WHERE free.shard = l.shard
                 RETURNING l.shard, free.owner",
                &[&held, &self.instance.owner(), &self.ttl_ms(), &missed_ms],
            )
            .await?;
        if !rows.is_empty() {
            let shards: Vec<i16> = rows.iter().map(|row| row.get(0)).collect();
            let mut writers: Vec<String> = rows
                .iter()
                .filter_map(|row| row.get(1))
                .map(writer_of)
                .collect();
            writers.sort_unstable();
            writers.dedup();
            self.end_writers(client, &writers).await;
            self.raise(client, &shards).await?;
        }
        let other = client
            .query_opt(
                "SELECT owner FROM shard_lease
                 WHERE owner <> $1 AND expires_at >= clock_timestamp() ORDER BY shard LIMIT 1",
                &[&self.instance.owner()],
            )
            .await?;
        let other: Option<String> = other.map(|row| row.get(0));
        self.publish(|holdings| holdings.other = other);
        Ok(())
    }

    /// Raises the tokens of all that is held: what an own connection, lost in mid-flush, may still be
    /// committing is decided afterwards.
    async fn raise_all(&self, client: &Client) -> Result<(), Error> {
        self.end_writers(client, &[self.instance.writer()]).await;
        self.raise(client, &self.held()).await
    }

    /// At least to the seconds since 1970: units believe the highest token, and a database that was put
    /// back in time must not give out lower ones than before.
    async fn raise(&self, client: &Client, shards: &[i16]) -> Result<(), Error> {
        let rows = client
            .query(
                "WITH locked AS (
                     SELECT shard FROM shard_token WHERE shard = ANY($1) ORDER BY shard FOR UPDATE
                 )
                 UPDATE shard_token t
                 SET token = greatest(token + 1, extract(epoch FROM clock_timestamp())::int8)
                 FROM locked
                 WHERE t.shard = locked.shard RETURNING t.shard, t.token",
                &[&shards],
            )
            .await?;
        let tokens = rows.iter().filter_map(|row| {
            let shard = u8::try_from(row.get::<_, i16>(0))
                .ok()
                .and_then(Shard::new)?;
            Some((shard, row.get::<_, i64>(1)))
        });
        let tokens: Vec<_> = tokens.collect();
        tracing::info!(shards = tokens.len(), "shards owned under new tokens");
        self.publish(|holdings| holdings.tokens.extend(tokens));
        Ok(())
    }

    /// A writer that cannot be ended is waited for by the raise.
    async fn end_writers(&self, client: &Client, writers: &[String]) {
        let ended = client
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = ANY($1) AND usename = current_user",
                &[&writers],
            )
            .await;
        match ended {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => tracing::warn!(sessions = ended.len(), "ended the writer before us"),
            Err(error) => tracing::warn!(%error, "cannot end the writer before us"),
        }
    }

    async fn release(&self, client: &Client) -> Result<(), Error> {
        client
            .execute(
                "UPDATE shard_lease SET owner = NULL, expires_at = '-infinity' WHERE owner = $1",
                &[&self.instance.owner()],
            )
            .await?;
        self.publish(|holdings| holdings.tokens.clear());
        Ok(())
    }

    fn expire(&self, renewed: Instant) {
        if renewed.elapsed() >= self.settings.ttl() {
            self.publish(|holdings| holdings.tokens.clear());
        }
    }

    fn publish(&self, change: impl FnOnce(&mut Holdings)) {
        self.holdings.send_if_modified(|holdings| {
            let before = holdings.clone();
            change(holdings);
            *holdings != before
        });
    }

    fn held(&self) -> Vec<i16> {
        self.holdings
            .borrow()
            .tokens
            .keys()
            .map(|shard| shard.get().into())
            .collect()
    }

    fn ttl_ms(&self) -> f64 {
        f64::from(u32::try_from(self.settings.ttl_ms).unwrap_or(u32::MAX))
    }
}

/// Which database this is. A promoted standby has another timeline, a restored dump another server:
/// then what units were told may be gone, and the centre's timeline rises.
async fn identify(client: &Client) -> Result<Centre, Error> {
    let row = client
        .query_one(
            "WITH server AS (
                 SELECT system_identifier AS id,
                     ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::int8
                         AS timeline
                 FROM pg_control_system()
             )
             INSERT INTO centre AS c (server_id, server_timeline)
             SELECT id, timeline FROM server
             ON CONFLICT (single_row) DO UPDATE SET
                 timeline = c.timeline + CASE WHEN
                     (c.server_id, c.server_timeline) = (excluded.server_id, excluded.server_timeline)
                     THEN 0 ELSE 1 END,
                 server_id = excluded.server_id, server_timeline = excluded.server_timeline
             RETURNING replace(centre_id::text, '-', ''), timeline",
            &[],
        )
        .await?;
    let id: &str = row.get(0);
    let id = u128::from_str_radix(id, 16).unwrap_or_default();
    let timeline: i32 = row.get(1);
    Ok(Centre {
        id: CentreId::from_bytes(id.to_be_bytes()),
        timeline: timeline.unsigned_abs(),
    })
}
