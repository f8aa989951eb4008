//! kill -9 of a real agent, again and again under load: whatever it answered with success is there.

use std::collections::BTreeSet;
use std::time::Duration;

use edge_agent::buffer::QuotaPolicy;
use futures_util::future::join_all;
use jiff::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::clock;
use crate::held::{self, HeldError, with_buffer};
use crate::system::{Alone, Camera, DEVICE, SystemError, Tuning};

/// Cameras that post at the same time.
const CAMERAS: usize = 4;

/// The longest post, in passages.
const POST_PASSAGES_MAX: usize = 40;

/// The longest that an agent lives, from its first answer on.
const LIFE_MS_MAX: u64 = 150;

/// How long the agent may take to accept the first post after a start, on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

const QUOTA_BYTES: u32 = 256 * 1024 * 1024;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Kills.
    pub kills: u64,
    /// Passages that were answered with success.
    pub accepted: u64,
    /// Passages in posts that were cut off: they may be there or not.
    pub unanswered: u64,
    /// Passages in the store at the end.
    pub found: u64,
    /// Accepted passages that are missing.
    pub missing: u64,
    /// Passages that are there twice.
    pub twice: u64,
    /// The longest time from a start to the first accepted post.
    pub slowest_start_ms: u64,
}

/// The harness failed.
#[derive(Debug, thiserror::Error)]
pub enum KillsError {
    /// The agent.
    #[error(transparent)]
    System(#[from] SystemError),
    /// Its store.
    #[error(transparent)]
    Held(#[from] HeldError),
    /// The agent does not come back.
    #[error("kill {kill}: no post was accepted within {START_WITHIN:?}; {log}")]
    Gone {
        /// After which kill.
        kill: u64,
        /// The end of its log.
        log: String,
    },
}

/// What cameras know of their passages, by event time.
#[derive(Debug, Default)]
struct Known {
    accepted: BTreeSet<i64>,
    unanswered: u64,
}

/// Kills an agent `times` times under load, then counts what its store holds.
///
/// # Errors
/// The agent does not start, or does not come back.
pub async fn run(seed: u64, times: u64) -> Result<Report, KillsError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let tuning = Tuning {
        buffer_quota_bytes: QUOTA_BYTES,
        ..Tuning::default()
    };
    let mut alone = tokio::task::block_in_place(|| Alone::make(&tuning, None, |text| text))?;
    let (mut report, mut known) = (Report::default(), Known::default());
    // Each passage has a time of its own, by which it is found again.
    let mut next_ms = clock::unix_ms() - 30 * 24 * 3_600_000;
    for kill in 0..times {
        let began = clock::monotonic();
        alone.agent.server.start()?;
        let camera = alone.agent.camera().clone();
        loop {
            if post(&camera, 1, &mut next_ms, &mut known).await {
                break;
            }
            if began.elapsed() > START_WITHIN {
                let log = alone.agent.server.log_tail();
                return Err(KillsError::Gone { kill, log });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.slowest_start_ms = report.slowest_start_ms.max(started_ms);
        let cameras: Vec<_> = (0..CAMERAS)
            .map(|_| {
                let first_ms = next_ms;
                next_ms += 1_000_000;
                let seed = random.random();
                load(camera.clone(), first_ms, seed)
            })
            .collect();
        let life = Duration::from_millis(random.random_range(0..LIFE_MS_MAX));
        let server = &mut alone.agent.server;
        let (told, ()) = tokio::join!(join_all(cameras), async {
            tokio::time::sleep(life).await;
            tokio::task::block_in_place(|| server.kill());
        });
        report.kills += 1;
        for more in told {
            known.accepted.extend(more.accepted);
            known.unanswered += more.unanswered;
        }
    }
    let settings = held::settings(alone.buffer(), QUOTA_BYTES.into(), QuotaPolicy::DropOldest);
    let held = tokio::task::block_in_place(|| with_buffer(&settings, held::read))?;
    let mut found = BTreeSet::new();
    for passage in held.passages.values() {
        report.twice += u64::from(!found.insert(passage.event_time.as_millis()));
    }
    report.accepted = known.accepted.len() as u64;
    report.unanswered = known.unanswered;
    report.found = held.passages.len() as u64;
    report.missing = known.accepted.difference(&found).count() as u64;
    Ok(report)
}

/// Posts until nobody answers.
async fn load(camera: Camera, mut next_ms: i64, seed: u64) -> Known {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut known = Known::default();
    loop {
        let passages = random.random_range(1..=POST_PASSAGES_MAX);
        if !post(&camera, passages, &mut next_ms, &mut known).await {
            return known;
        }
    }
}

/// Posts once. Whether it was answered with success.
async fn post(camera: &Camera, passages: usize, next_ms: &mut i64, known: &mut Known) -> bool {
    let count = i64::try_from(passages).unwrap_or(0);
    let times = *next_ms..*next_ms + count;
    *next_ms += count;
    let line = |ms: i64| {
        let at = Timestamp::from_millisecond(ms).unwrap_or_default();
        format!(r#"{{"kvfv_id":"{DEVICE}","timestamp":"{at}","vehicle_speed":50.5}}"#)
    };
    let lines: Vec<String> = times.clone().map(line).collect();
    match camera.post(&lines).await {
        Ok(answer) if answer.accepted == passages as u64 => {
            known.accepted.extend(times);
            true
        }
        _ => {
            known.unanswered += passages as u64;
            false
        }
    }
}
