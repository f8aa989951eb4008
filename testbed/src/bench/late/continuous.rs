//! Four late passages beside a continuous aggregate of TimescaleDB over the same rows.
//!
//! Method: a thousand simulated units and four real agents have windows of two hours, sent in the
//! order of time, and PostgreSQL has done its maintenance. Over the raw rows, which Verst keeps in a
//! hypertable, stands a continuous aggregate of 5 minutes by device in real-time mode, refreshed. In
//! each round each agent is posted one passage of long ago, each into another window. From the posts:
//! until the windows of Verst are right in SQL. What it commits it commits together, so the raw rows
//! are there at that moment: then the real-time answers are looked at, and an operator who knew at
//! once would refresh what is invalid; until that is done. A policy would wait for its turn first.
//! Figures are medians of the rounds; in one more round the work of the database for either is
//! counted. At the end every window is compared with the recomputation, and all of the aggregate
//! with the windows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::{DeviceId, EventTime};

use super::backlog::Backlog;
use super::old::{Old, order};
use super::work::Work;
use super::{Scale, WINDOW_MS, books};
use crate::bench::events;
use crate::bench::figure::{Figure, Target, median};
use crate::bench::http::Connection;
use crate::bench::progress;
use crate::bench::stage::{Stage, to_f64};
use crate::clock;
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Interval, Ledger, Stats, WindowKey, database as tables};
use crate::system::Database;

const SKIPPED: &str = "skipped: continuous aggregates were not measured, this PostgreSQL server offers \
                       no TimescaleDB; name the programs of one that does in VERST_POSTGRES_BIN";
const AGENTS: [&str; 4] = ["late-1", "late-2", "late-3", "late-4"];
/// Windows of each unit; agents are late for windows so far apart.
const WINDOWS: i64 = 24;
const APART: i64 = 6;
/// And one more.
const ROUNDS: i64 = 5;
const SECONDS_MAX: f64 = 2.0;
const RIGHT_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// The tables or views whose rows are windows.
const OURS: &str = "speed_stats_5m";
const THEIRS: &str = "theirs_5m";
const CREATE: &str = "\
    CREATE MATERIALIZED VIEW theirs_5m \
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS \
    SELECT device_key, time_bucket(interval '5 minutes', event_time) AS bucket, \
           count(*) AS n, sum(speed_ckmh) AS sum_ckmh \
    FROM passage GROUP BY device_key, time_bucket(interval '5 minutes', event_time) WITH NO DATA";
const REFRESH: &str = "CALL refresh_continuous_aggregate('theirs_5m', NULL, NULL)";
const DIFFERENT: &str = "\
    SELECT count(*) FROM speed_stats_5m o FULL JOIN theirs_5m t USING (device_key, bucket) \
    WHERE (o.n, nullif(o.sum_ckmh, 0)) IS DISTINCT FROM (t.n, t.sum_ckmh)";

/// Measures; a note and no figure where the server has no such thing.
///
/// # Errors
/// The system does not come up, or what is committed is not what was sent.
pub(super) async fn run(scale: &Scale, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let stage = Stage::start(scale.stragglers, &AGENTS).await?;
    if !tokio::task::block_in_place(|| stage.system.cluster.offers_timescale())? {
        notes.push(SKIPPED.to_owned());
        stage.stop()?;
        return Ok(Vec::new());
    }
    let mut round = Round {
        road: Old::new(scale.continuous_passages),
        database: stage.system.database().await?,
        stage,
    };
    order(&round.stage, "ALTER SYSTEM SET autovacuum = off").await?;
    order(&round.stage, "SELECT pg_reload_conf()").await?;
    round.history(scale.continuous_passages).await?;
    order(&round.stage, "VACUUM ANALYZE").await?;
    order(&round.stage, CREATE).await?;
    let first = round.refresh().await?;
    progress(&format!("continuous: first refresh of all in {first:.2} s"));

    let (mut ours, mut refreshes, mut theirs, mut wrong) = (vec![], vec![], vec![], vec![]);
    for number in 0..ROUNDS {
        let (wanted, posted) = round.late(number).await?;
        let right = round.right_in_ours(&wanted, posted).await?;
        let real_time = round.wrong_in(THEIRS, &wanted).await?;
        let refresh = round.refresh().await?;
        let left = round.wrong_in(THEIRS, &wanted).await?;
        ensure!(left == 0, "{left} windows are wrong after the refresh");
        progress(&format!(
            "continuous: right after {right:.2} s, {real_time} wrong in real time, refreshed in {refresh:.2} s"
        ));
        ours.push(right);
        refreshes.push(refresh);
        theirs.push(right + refresh);
        wrong.push(to_f64(real_time));
    }
    let [work, their_work] = round.work().await?;
    round.judge().await?;

    let middle = |values: Vec<f64>| median(values).context("no round");
    let any = |name, value, unit| Figure::new(name, value, unit, Target::Any);
    let late = to_f64(AGENTS.len() as u64);
    Ok(vec![
        Figure::new(
            "continuous.ours_seconds",
            middle(ours)?,
            "s",
            Target::AtMost(SECONDS_MAX),
        )
        .with_limit(1.0, "s from flush to flush"),
        any("continuous.theirs_seconds", middle(theirs)?, "s")
            .with_limit(middle(refreshes)?, "s of it the refresh"),
        any("continuous.theirs_wrong_before", middle(wrong)?, "windows")
            .with_limit(late, "windows with a late passage"),
        any("continuous.ours_pages", to_f64(work.pages), "pages"),
        any("continuous.theirs_pages", to_f64(their_work.pages), "pages"),
        any("continuous.ours_rows_read", read(&work), "rows"),
        any("continuous.theirs_rows_read", read(&their_work), "rows"),
        any("continuous.ours_rows_written", to_f64(work.written), "rows"),
        any(
            "continuous.theirs_rows_written",
            to_f64(their_work.written),
            "rows",
        ),
    ])
}

fn read(work: &Work) -> f64 {
    to_f64(work.fetched + work.scanned)
}

/// What windows must be, column by column.
struct Wanted {
    devices: Vec<String>,
    starts: Vec<i64>,
    counts: Vec<i64>,
    sums: Vec<i64>,
}

impl Wanted {
    fn of(ledger: &Ledger, keys: Vec<WindowKey>) -> Result<Self> {
        let mut all = ledger.windows();
        let stats = keys.iter().map(|key| all.remove(key));
        let stats: Option<Vec<Stats>> = stats.collect();
        let stats = stats.context("a window without a passage")?;
        Ok(Self {
            starts: keys.iter().map(|key| key.start_ms).collect(),
            devices: keys.into_iter().map(|key| key.device).collect(),
            counts: stats.iter().map(|stats| stats.n).collect(),
            sums: stats.iter().map(|stats| stats.sum_ckmh).collect(),
        })
    }
}

/// One after the other on the same rows.
struct Round {
    stage: Stage,
    road: Old,
    database: Database,
}

impl Round {
    /// Every window of everybody, the oldest first, as time would bring them.
    async fn history(&mut self, passages: i64) -> Result<()> {
        let units = self.stage.units.clone();
        for back in (0..WINDOWS).rev() {
            progress(&format!("continuous: {back} more windows of history"));
            self.road
                .history(&self.stage, &units, back..back + 1)
                .await?;
            let from_ms = self.road.window_ms(back);
            for (agent, seed) in AGENTS.iter().zip(0..) {
                let backlog = Backlog {
                    from_ms,
                    to_ms: from_ms + WINDOW_MS,
                    passages: u64::try_from(passages)?,
                    seed: 1_000 * u64::try_from(back)? + seed,
                };
                let door = self.stage.door(agent)?;
                backlog.post(agent, door, &mut self.road.ledger).await?;
            }
        }
        let posted = self.road.ledger.passages();
        Ok(self.stage.system.settled(posted, RIGHT_WITHIN).await?)
    }

    /// Posts one passage to each agent; what the windows must become, and the moment before.
    async fn late(&mut self, round: i64) -> Result<(Wanted, Instant)> {
        let (mut keys, mut posts) = (Vec::new(), Vec::new());
        for (agent, place) in AGENTS.into_iter().zip(0..) {
            let start_ms = self.road.window_ms(round + place * APART);
            let at = EventTime::from_millis(start_ms + WINDOW_MS / 2 + 1);
            let mut traffic = Traffic::new(Road::motorway(1.0), u64::try_from(round)?, at);
            let mut passage = traffic.next_passage();
            passage.event_time = at;
            self.road.ledger.add(agent, Fact::from(&passage));
            let connection = Connection::open(self.stage.door(agent)?).await?;
            posts.push((connection, events::single(agent, &passage)));
            keys.push(WindowKey {
                device: agent.to_owned(),
                interval: Interval::FiveMinutes,
                start_ms,
            });
        }
        let wanted = Wanted::of(&self.road.ledger, keys)?;
        let start = clock::monotonic();
        for (connection, request) in &mut posts {
            events::post(connection, request, 1).await?;
        }
        Ok((wanted, start))
    }

    /// How many of these windows are not what they must be.
    async fn wrong_in(&self, windows: &str, wanted: &Wanted) -> Result<u64> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE w.n IS DISTINCT FROM wanted.n \
                                        OR w.sum_ckmh IS DISTINCT FROM wanted.sum_ckmh) \
             FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[]) \
                  AS wanted(device, start_ms, n, sum_ckmh) \
             LEFT JOIN device d USING (device) \
             LEFT JOIN {windows} w ON w.device_key = d.device_key \
                                  AND w.bucket = to_timestamp(wanted.start_ms / 1000.0)"
        );
        let Wanted {
            devices,
            starts,
            counts,
            sums,
        } = wanted;
        let client = self.database.client();
        let row = client
            .query_one(&sql, &[devices, starts, counts, sums])
            .await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    /// Seconds until Verst's windows are right.
    async fn right_in_ours(&self, wanted: &Wanted, posted: Instant) -> Result<f64> {
        while self.wrong_in(OURS, wanted).await? > 0 {
            ensure!(
                posted.elapsed() < RIGHT_WITHIN,
                "windows are wrong after {RIGHT_WITHIN:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(posted.elapsed().as_secs_f64())
    }

    /// Seconds of a refresh of whatever is invalid.
    async fn refresh(&self) -> Result<f64> {
        let start = clock::monotonic();
        self.database.client().batch_execute(REFRESH).await?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// What the database does for a round: for Verst, and for the refresh.
    async fn work(&mut self) -> Result<[Work; 2]> {
        let before = Work::so_far(&self.stage).await?;
        let (wanted, posted) = self.late(ROUNDS).await?;
        self.right_in_ours(&wanted, posted).await?;
        let between = Work::so_far(&self.stage).await?;
        self.refresh().await?;
        let after = Work::so_far(&self.stage).await?;
        Ok([between.clone().since(&before), after.since(&between)])
    }

    async fn judge(self) -> Result<()> {
        let client = self.database.client();
        let (found, percentiles) = tables::windows(client).await?;
        let findings = self.road.ledger.compare_windows(&found);
        ensure!(findings.exact(), "windows differ: {findings}");
        ensure!(percentiles.wrong == 0, "percentiles differ: {percentiles}");
        let different: i64 = client.query_one(DIFFERENT, &[]).await?.get(0);
        ensure!(
            different == 0,
            "{different} windows of the aggregate differ"
        );
        let agents: Vec<DeviceId> = AGENTS
            .iter()
            .map(|name| DeviceId::new(name))
            .collect::<Result<_, _>>()?;
        let of_units = self.road.ledger.passages()
            - AGENTS
                .iter()
                .map(|name| self.road.ledger.passages_of(name))
                .sum::<u64>();
        books::balanced(&self.stage, of_units, &agents).await?;
        drop(self.database);
        self.stage.stop()
    }
}
