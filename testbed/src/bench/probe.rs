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
use proto::DeviceId;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Statement;

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
    cursors: Statement,
    names: Vec<String>,
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
        let database = stage.system.database().await?;
        let cursors = database.client().prepare(CURSORS).await?;
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
        for row in database.client().query(&cursors, &[&names]).await? {
            let device = DeviceId::new(row.get(0))?;
            waiting.entry(device).or_default().settled = row.get(1);
        }
        let backend = u32::try_from(backend)?;
        Ok((
            Self {
                database,
                cursors,
                names,
                posts,
                backend,
                waiting,
            },
            sender,
        ))
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
        let mut times = [Times::new()?, Times::new()?];
        let from_ms = clock::unix_ms();
        let start = clock::monotonic();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while start.elapsed() < span {
            tick.tick().await;
            let rows = self
                .database
                .client()
                .query(&self.cursors, &[&self.names])
                .await?;
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
}
