//! From POST to "readable by SQL", passage by passage, for some units.
//!
//! Whoever posts says when; the probe asks the database every 20 ms how far the committed cursor of
//! each of these units reaches. Windows, raw rows and cursor are of one transaction, so what the
//! cursor covers can be read. The time that is taken is that after the answer came: what is
//! reported is never too short. The cost of the probe's own backend is known and left out of the
//! CPU figure.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use proto::{Bucket, DeviceId};
use tokio::time::MissedTickBehavior;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::procfs;
use super::stage::Stage;
use crate::clock;
use crate::system::Database;

/// How often the database is asked.
const LOOK: Duration = Duration::from_millis(20);
/// Posts on their way to the probe; it empties the channel every 20 ms. A full one makes posters
/// wait, which a run would show as latency.
const POSTS_MAX: usize = 65_536;
/// Times up to this are told apart.
const TIME_MS_MAX: u64 = 600_000;

/// Each watched device with the last number that its committed cursors cover. A device that began a
/// new stream counts from where the others ended.
const CURSORS: &str = "SELECT d.device, sum(upper(r) - lower(r))::int8 \
                       FROM device d JOIN stream_cursor c USING (device_key), \
                       unnest(c.counted) AS r WHERE d.device = ANY($1) GROUP BY d.device";
/// The same by the windows from some time on: what is older and arrives meanwhile is left out.
const WINDOWS: &str = "SELECT d.device, sum(w.n)::int8 \
                       FROM device d JOIN speed_stats_5m w USING (device_key) \
                       WHERE d.device = ANY($1) AND w.bucket >= to_timestamp($2) \
                       GROUP BY d.device";

/// Passages of one unit in the order in which it numbers them.
#[derive(Debug)]
pub struct Post {
    /// Whose.
    pub device: DeviceId,
    /// When each was posted, by the wall clock.
    pub at_ms: Vec<i64>,
}

/// Where posts are said.
pub type Posts = SyncSender<Post>;

/// Watches units.
#[derive(Debug)]
pub struct Probe {
    database: Database,
    readable: Statement,
    names: Vec<String>,
    /// Second parameter of the statement; none with cursors.
    from_s: Option<f64>,
    posts: Receiver<Post>,
    backend: u32,
    waiting: HashMap<DeviceId, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Numbers that were committed before or left the queue.
    settled: i64,
    /// Post times of the numbers after that.
    posted_ms: VecDeque<i64>,
}

/// Times from POST to readable.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, TIME_MS_MAX, 3)?))
    }

    /// The time that this share did not exceed, in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        super::stage::to_f64(self.0.value_at_quantile(share))
    }

    /// How many passages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Probe {
    /// For these units. What they have committed so far is left out.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn new(stage: &Stage, devices: &[DeviceId]) -> Result<(Self, Posts)> {
        Self::start(stage, devices, CURSORS, None).await
    }

    /// The same for units that catch up meanwhile: passages of windows from this one on alone.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn since(stage: &Stage, devices: &[DeviceId], from: Bucket) -> Result<(Self, Posts)> {
        let from_s = from.start().as_millis() / 1_000;
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        Self::start(stage, devices, WINDOWS, Some(from_s as f64)).await
    }

    async fn start(
        stage: &Stage,
        devices: &[DeviceId],
        sql: &str,
        from_s: Option<f64>,
    ) -> Result<(Self, Posts)> {
        let database = stage.system.database().await?;
        let readable = database.client().prepare(sql).await?;
        let backend: i32 = database
            .client()
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .get(0);
        let (sender, posts) = sync_channel(POSTS_MAX);
        let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let mut waiting: HashMap<_, _> = devices
            .iter()
            .map(|device| (device.clone(), Waiting::default()))
            .collect();
        let backend = u32::try_from(backend)?;
        let mut probe = Self {
            database,
            readable,
            names,
            from_s,
            posts,
            backend,
            waiting: HashMap::new(),
        };
        for row in probe.look().await? {
            let device = DeviceId::new(row.get(0))?;
            waiting.entry(device).or_default().settled = row.get(1);
        }
        probe.waiting = waiting;
        Ok((probe, sender))
    }

    async fn look(&self) -> Result<Vec<Row>> {
        let names: &(dyn ToSql + Sync) = &self.names;
        let from_s = self
            .from_s
            .as_ref()
            .map(|from_s| from_s as &(dyn ToSql + Sync));
        let parameters: Vec<_> = std::iter::once(names).chain(from_s).collect();
        Ok(self
            .database
            .client()
            .query(&self.readable, &parameters)
            .await?)
    }

    /// CPU time of the probe's own backend.
    ///
    /// # Errors
    /// It is gone.
    pub fn own_cpu(&self) -> Result<Duration> {
        procfs::cpu_time(self.backend).context("the probe's backend is gone")
    }

    /// Watches for this long. Times of passages posted before the call are left out, and sorted by
    /// `kind` of device (0 or 1).
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn watch(
        &mut self,
        span: Duration,
        kind: impl Fn(&DeviceId) -> usize,
    ) -> Result<[Times; 2]> {
        let start = clock::monotonic();
        self.watch_while(|| start.elapsed() < span, kind).await
    }

    /// The same for as long as `go_on` says so.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn watch_while(
        &mut self,
        go_on: impl Fn() -> bool,
        kind: impl Fn(&DeviceId) -> usize,
    ) -> Result<[Times; 2]> {
        let mut times = [Times::new()?, Times::new()?];
        let from_ms = clock::unix_ms();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while go_on() {
            tick.tick().await;
            let rows = self.look().await?;
            let now_ms = clock::unix_ms();
            for post in self.posts.try_iter() {
                self.waiting
                    .entry(post.device)
                    .or_default()
                    .posted_ms
                    .extend(post.at_ms);
            }
            for row in rows {
                let device = DeviceId::new(row.get(0))?;
                let committed: i64 = row.get(1);
                let times = &mut times[kind(&device).min(1)].0;
                let waiting = self.waiting.entry(device).or_default();
                while waiting.settled < committed {
                    let Some(posted_ms) = waiting.posted_ms.pop_front() else {
                        break;
                    };
                    waiting.settled += 1;
                    if posted_ms >= from_ms {
                        times.saturating_record((now_ms - posted_ms).max(1).unsigned_abs());
                    }
                }
            }
        }
        Ok(times)
    }

    /// Adds the passages of one kind that became readable too late to be seen: those that have
    /// waited for more than `least_ms` and still do, each with the age that it has by now.
    pub fn add_waiting(&self, times: &mut Times, least_ms: i64) {
        let now_ms = clock::unix_ms();
        let waiting = self.waiting.values().flat_map(|waiting| &waiting.posted_ms);
        let ages = waiting.map(|posted_ms| now_ms - posted_ms);
        for age_ms in ages.filter(|age_ms| *age_ms > least_ms) {
            times.0.saturating_record(age_ms.unsigned_abs());
        }
    }
}
