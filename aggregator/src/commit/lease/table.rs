//! The leases as the database keeps them: each function is one statement, which ends as one whatever
//! becomes of this process meanwhile.
//!
//! Whoever changes anything that others act upon notifies [`CHANNEL`].

use std::collections::{BTreeMap, BTreeSet};

use proto::device::CentreId;
use proto::receipt::Centre;
use proto::topic::Shard;
use tokio_postgres::{Client, Error};

use super::balance::Member;
use super::{Instance, writer_of};
use crate::config::LeaseConfig;

/// Where it is told that leases or aggregators have changed.
pub(super) const CHANNEL: &str = "verst_leases";

/// For so long the row of an aggregator that is gone is kept, for people to look at.
const GONE_KEPT: &str = "1 hour";

/// What everybody who lives holds.
#[derive(Debug)]
pub(super) struct View {
    members: Vec<(String, i16)>,
    shards: BTreeMap<Shard, Option<String>>,
}

impl View {
    pub(super) fn members(&self) -> Vec<Member<'_>> {
        self.members
            .iter()
            .map(|(owner, brokers)| Member {
                owner,
                brokers: *brokers,
            })
            .collect()
    }

    pub(super) fn shards(&self) -> BTreeMap<Shard, Option<&str>> {
        self.shards
            .iter()
            .map(|(shard, owner)| (*shard, owner.as_deref()))
            .collect()
    }

    /// Somebody else who lives, one with shards first.
    pub(super) fn other_than(&self, me: &str) -> Option<String> {
        let owners = self.shards.values().flatten();
        let living = self.members.iter().map(|(owner, _)| owner);
        owners.chain(living).find(|owner| *owner != me).cloned()
    }
}

/// Why a shard could be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takeover {
    /// Nobody had it, or its owner gave it up.
    Free,
    /// Its owner missed a renewal and its session is gone.
    Vanished,
    /// Its owner was silent for the length of a lease.
    Expired,
}

impl Takeover {
    /// The word for it in metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Vanished => "vanished",
            Self::Expired => "expired",
        }
    }
}

/// A shard that was claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) shard: Shard,
    /// Who had it before.
    pub(super) owner: Option<String>,
    pub(super) takeover: Takeover,
}

/// The leases, for one aggregator over one connection.
pub(super) struct Table<'a> {
    pub(super) client: &'a Client,
    pub(super) instance: &'a Instance,
}

impl Table<'_> {
    /// The clock of the database, ms since 1970.
    pub(super) async fn clock_ms(&self) -> Result<i64, Error> {
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        Ok(self.client.query_one(clock, &[]).await?.get(0))
    }

    /// An older aggregator of the same name that lives: the broker knows one connection of a name.
    pub(super) async fn namesake(&self) -> Result<Option<String>, Error> {
        let older = self
            .client
            .query_opt(
                "SELECT a.owner FROM aggregator a
                 WHERE split_part(a.owner, ' ', 1) = $2 AND a.owner <> $1
                     AND (a.since, a.owner) < (coalesce(
                         (SELECT since FROM aggregator WHERE owner = $1), 'infinity'), $1)
                     AND aggregator_lives(a.owner)
                 ORDER BY a.since LIMIT 1",
                &[&self.instance.owner(), &self.instance.name],
            )
            .await?;
        Ok(older.map(|row| row.get(0)))
    }

    /// Says that this one lives; `news` when the others should look at once.
    pub(super) async fn renew(
        &self,
        settings: &LeaseConfig,
        brokers: i16,
        news: bool,
    ) -> Result<(), Error> {
        self.client
            .execute(
                "INSERT INTO aggregator AS a
                     (owner, renewed_at, expires_after, suspect_after, brokers)
                 VALUES ($1, clock_timestamp(), $2 * interval '1 ms', $3 * interval '1 ms', $4)
                 ON CONFLICT (owner) DO UPDATE SET renewed_at = excluded.renewed_at,
                     expires_after = excluded.expires_after,
                     suspect_after = excluded.suspect_after, brokers = excluded.brokers",
                &[
                    &self.instance.owner(),
                    &millis(settings.ttl()),
                    &millis(settings.renew() * 3 / 2),
                    &brokers,
                ],
            )
            .await?;
        if news { self.notify().await } else { Ok(()) }
    }

    /// Everybody who lives, and of each shard the living owner.
    pub(super) async fn look(&self) -> Result<View, Error> {
        let rows = self
            .client
            .query(
                "WITH living AS MATERIALIZED (
                     SELECT owner, brokers FROM aggregator WHERE aggregator_lives(owner))
                 SELECT NULL::int2, owner, brokers FROM living
                 UNION ALL
                 SELECT l.shard, living.owner, NULL::int2
                 FROM shard_lease l LEFT JOIN living ON living.owner = l.owner",
                &[],
            )
            .await?;
        let mut view = View {
            members: Vec::new(),
            shards: BTreeMap::new(),
        };
        for row in rows {
            let owner: Option<String> = row.get(1);
            match (row.get(0), owner) {
                (None, Some(owner)) => view.members.push((owner, row.get(2))),
                (Some(number), owner) => {
                    if let Some(shard) = shard(number) {
                        view.shards.insert(shard, owner);
                    }
                }
                (None, None) => {}
            }
        }
        Ok(view)
    }

    /// Takes those of these shards that nobody who lives owns.
    pub(super) async fn claim(&self, shards: &[Shard]) -> Result<Vec<Claimed>, Error> {
        let rows = self
            .client
            .query(
                "WITH free AS (
                     SELECT l.shard, l.owner FROM shard_lease l
                     WHERE l.shard = ANY($1)
                         AND (l.owner IS NULL OR NOT aggregator_lives(l.owner))
                     ORDER BY l.shard FOR UPDATE SKIP LOCKED
                 )
                 UPDATE shard_lease l SET owner = $2
                 FROM free LEFT JOIN aggregator a ON a.owner = free.owner
                 WHERE free.shard = l.shard
                 RETURNING l.shard, free.owner,
                     coalesce(clock_timestamp() < a.renewed_at + a.expires_after, false)",
                &[&numbers(shards), &self.instance.owner()],
            )
            .await?;
        let claimed = rows.iter().filter_map(|row| {
            let owner: Option<String> = row.get(1);
            let takeover = match (&owner, row.get(2)) {
                (None, _) => Takeover::Free,
                (Some(_), true) => Takeover::Vanished,
                (Some(_), false) => Takeover::Expired,
            };
            Some(Claimed {
                shard: shard(row.get(0))?,
                owner,
                takeover,
            })
        });
        Ok(claimed.collect())
    }

    /// Raises the tokens of those of these shards that are still owned here, and waits for the
    /// transactions that prove them. Nobody can claim them meanwhile. At least to the seconds since
    /// 1970: units believe the highest token, and a database that was put back in time must not give
    /// out lower ones than before.
    pub(super) async fn raise(&self, shards: &[Shard]) -> Result<BTreeMap<Shard, i64>, Error> {
        let rows = self
            .client
            .query(
                "WITH mine AS MATERIALIZED (
                     SELECT shard FROM shard_lease WHERE shard = ANY($1) AND owner = $2
                     ORDER BY shard FOR SHARE
                 ), locked AS MATERIALIZED (
                     SELECT t.shard FROM shard_token t JOIN mine USING (shard)
                     ORDER BY t.shard FOR UPDATE OF t
                 )
                 UPDATE shard_token t
                 SET token = greatest(token + 1, extract(epoch FROM clock_timestamp())::int8)
                 FROM locked
                 WHERE t.shard = locked.shard RETURNING t.shard, t.token",
                &[&numbers(shards), &self.instance.owner()],
            )
            .await?;
        let tokens = rows.iter();
        Ok(tokens
            .filter_map(|row| Some((shard(row.get(0))?, row.get(1))))
            .collect())
    }

    /// Ends the writers of these owners if they still run. One that cannot be ended is waited for by
    /// the raise.
    pub(super) async fn end_writers(&self, owners: BTreeSet<&str>) {
        if owners.is_empty() {
            return;
        }
        let writers: Vec<String> = owners.into_iter().map(writer_of).collect();
        let ended = self
            .client
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

    /// Gives up all leases but these.
    pub(super) async fn keep_only(&self, shards: &[Shard]) -> Result<(), Error> {
        let freed = self
            .client
            .execute(
                "UPDATE shard_lease SET owner = NULL WHERE owner = $1 AND shard <> ALL($2)",
                &[&self.instance.owner(), &numbers(shards)],
            )
            .await?;
        if freed > 0 {
            self.notify().await
        } else {
            Ok(())
        }
    }

    /// Gives up all leases and takes part no longer.
    pub(super) async fn leave(&self) -> Result<(), Error> {
        self.client
            .execute(
                "WITH freed AS (UPDATE shard_lease SET owner = NULL WHERE owner = $1)
                 DELETE FROM aggregator WHERE owner = $1",
                &[&self.instance.owner()],
            )
            .await?;
        self.notify().await
    }

    /// Forgets the rows of those who are gone for long.
    pub(super) async fn tidy(&self) -> Result<(), Error> {
        let gone = format!(
            "DELETE FROM aggregator
             WHERE renewed_at + expires_after < clock_timestamp() - interval '{GONE_KEPT}'"
        );
        self.client.execute(&gone, &[]).await.map(drop)
    }

    /// Has the others look.
    pub(super) async fn notify(&self) -> Result<(), Error> {
        self.client
            .batch_execute(&format!("NOTIFY {CHANNEL}"))
            .await
    }
}

/// Which database this is. A promoted standby has another timeline, a restored dump another server:
/// then what units were told may be gone, and the centre's timeline rises: at least to the tens of
/// seconds since 1970, because units believe the highest, and what was restored may be older than
/// several rises.
pub(super) async fn identify(client: &Client) -> Result<Centre, Error> {
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
                 timeline = CASE WHEN
                     (c.server_id, c.server_timeline) = (excluded.server_id, excluded.server_timeline)
                     THEN c.timeline ELSE greatest(
                         c.timeline + 1, (extract(epoch FROM clock_timestamp()) / 10)::int4) END,
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

fn shard(number: i16) -> Option<Shard> {
    u8::try_from(number).ok().and_then(Shard::new)
}

fn numbers(shards: &[Shard]) -> Vec<i16> {
    shards.iter().map(|shard| shard.get().into()).collect()
}

fn millis(duration: std::time::Duration) -> f64 {
    f64::from(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
}
