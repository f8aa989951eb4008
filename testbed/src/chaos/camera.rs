//! ○ The camera of a unit: live traffic with late passages among it, dated by the unit's own clock,
//! posted until it is accepted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::EventTime;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::feed::{self, PostingError};
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::event::Event;
use crate::recompute::{Fact, Ledger};
use crate::synthetic::customer_event;
use crate::system::Camera;

/// How often a camera posts.
const POST_INTERVAL: Duration = Duration::from_millis(100);
/// How long a camera waits for its agent to come back: longer than any fault.
const AGENT_AWAY_MAX: Duration = Duration::from_secs(300);
/// One in so many passages is handed over late.
const LATE_ONE_IN: u32 = 20;
/// By at most so much.
const LATE_MS_MAX: i64 = 20 * 3_600_000;

/// Ahead of the centre's clock by more than this, or older than its horizon, a passage goes to the
/// side table. Clocks are wrong by far more or by nothing, so the time of the post decides as well
/// as the time of arrival.
const AHEAD_MS_MAX: i64 = 5 * 60_000;
const HORIZON_MS: i64 = 60 * 86_400_000;

/// What was accepted so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Posted(Arc<Mutex<Books>>);

/// Windows and rows on the one hand, the side table on the other.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) rejected: Vec<(String, Fact)>,
}

impl Books {
    pub(super) fn accepted(&self) -> u64 {
        self.ledger.passages() + self.rejected.len() as u64
    }

    pub(super) fn accepted_of(&self, device: &str) -> u64 {
        let rejected = self.rejected.iter().filter(|(other, _)| other == device);
        self.ledger.passages_of(device) + rejected.count() as u64
    }
}

impl Posted {
    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How wrong the clock is by which the camera dates, in seconds; the unit's as a rule. Whoever holds it knows that no post is on its
/// way: a passage is never dated by one clock and judged by another.
pub(super) type Gate = Arc<tokio::sync::Mutex<i64>>;

/// One camera.
pub(super) struct Run {
    pub(super) device: String,
    pub(super) camera: Camera,
    pub(super) passages_per_s: f64,
    pub(super) seed: u64,
    pub(super) gate: Gate,
    pub(super) posted: Posted,
    pub(super) stop: CancellationToken,
}

impl Run {
    /// Posts what passes until `stop`, and what passed before it.
    pub(super) async fn live(self) -> Result<(), PostingError> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let start = EventTime::from_millis(clock::unix_ms());
        let mut traffic = Traffic::new(Road::motorway(self.passages_per_s), self.seed, start);
        let mut number = 0_u64;
        while !self.stop.is_cancelled() {
            let gate = self.gate.lock().await;
            let now = EventTime::from_millis(clock::unix_ms());
            let mut lines = Vec::new();
            while traffic.next_at() <= now && lines.len() < feed::POST_LINES {
                let mut passage = traffic.next_passage();
                let mut at_ms = passage.event_time.as_millis() + *gate * 1_000;
                // With a wrong clock that could lead to the very limits of what the centre takes.
                if *gate == 0 && random.random_range(0..LATE_ONE_IN) == 0 {
                    at_ms -= random.random_range(0..LATE_MS_MAX);
                }
                passage.event_time = EventTime::from_millis(at_ms.max(0));
                let mut event = customer_event(&self.device, &passage, &mut random);
                let id = format!("{}-{number}", self.device);
                event.insert("event_id".to_owned(), json!(id));
                number += 1;
                lines.push(Value::Object(event).to_string());
            }
            if !lines.is_empty() {
                feed::accept(&self.device, &lines, &self.camera, AGENT_AWAY_MAX).await?;
                self.book(&lines)?;
            }
            drop(gate);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(POST_INTERVAL) => {}
            }
        }
        Ok(())
    }

    fn book(&self, lines: &[String]) -> Result<(), PostingError> {
        let now_ms = clock::unix_ms();
        let mut books = self.posted.lock();
        for line in lines {
            let fact = Event::parse(line).and_then(|event| event.fact());
            let fact = fact.map_err(|source| PostingError::Unreadable {
                device: self.device.clone(),
                source,
            })?;
            let is_in_reach =
                fact.event_ms <= now_ms + AHEAD_MS_MAX && fact.event_ms >= now_ms - HORIZON_MS;
            if is_in_reach {
                books.ledger.add(&self.device, fact);
            } else {
                books.rejected.push((self.device.clone(), fact));
            }
        }
        Ok(())
    }
}
