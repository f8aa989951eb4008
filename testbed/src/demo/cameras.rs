//! The cameras in front of the real agents: live traffic, posted as it happens.
//!
//! Each post holds what passed since the last one. While its agent is away a camera tries again with
//! the same `event_id`s, and what passes meanwhile waits for the next post.

use std::time::Duration;

use proto::EventTime;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use service::tasks::{StuckTasks, TaskSet};
use tokio_util::sync::CancellationToken;

use super::SharedLedger;
use crate::clock;
use crate::feed::{self, PostingError};
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::event::Event;
use crate::synthetic::customer_event;
use crate::system::{Camera, System};

/// How often a camera posts.
const POST_INTERVAL: Duration = Duration::from_millis(100);
/// How long a camera waits for its agent to come back.
const AGENT_AWAY_MAX: Duration = Duration::from_secs(60);
/// How long the last post may take.
const STOP_WITHIN: Duration = Duration::from_secs(90);
/// Of the first camera; the others follow.
const SEED: u64 = 4_711;

/// All of them.
#[derive(Debug)]
pub(super) struct Cameras {
    stop: CancellationToken,
    tasks: TaskSet,
}

impl Cameras {
    /// Starts one for each real agent.
    pub(super) fn start(system: &System, passages_per_s: f64, ledger: &SharedLedger) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskSet::new(stop.clone());
        for (seed, (device, agent)) in (SEED..).zip(&system.agents) {
            let run = Run {
                device: device.clone(),
                camera: agent.camera().clone(),
                road: Road::motorway(passages_per_s),
                seed,
                ledger: ledger.clone(),
                stop: stop.clone(),
            };
            tasks.spawn("camera", run.live());
        }
        Self { stop, tasks }
    }

    /// Why one of them gave up.
    pub(super) fn failure(&self) -> Option<String> {
        self.tasks.cause().map(|cause| cause.to_string())
    }

    /// Ends them after their last post.
    pub(super) async fn stop(&self) -> Result<(), StuckTasks> {
        self.stop.cancel();
        self.tasks.join(STOP_WITHIN).await
    }
}

/// One camera.
struct Run {
    device: String,
    camera: Camera,
    road: Road,
    seed: u64,
    ledger: SharedLedger,
    stop: CancellationToken,
}

impl Run {
    async fn live(self) -> Result<(), PostingError> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let start = EventTime::from_millis(clock::unix_ms());
        let mut traffic = Traffic::new(self.road, self.seed, start);
        let mut number = 0_u64;
        while !self.stop.is_cancelled() {
            let now = EventTime::from_millis(clock::unix_ms());
            let mut lines = Vec::new();
            while traffic.next_at() <= now && lines.len() < feed::POST_LINES {
                let passage = traffic.next_passage();
                let mut event = customer_event(&self.device, &passage, &mut random);
                event.insert(
                    "event_id".to_owned(),
                    json!(format!("{}-{number}", self.device)),
                );
                number += 1;
                lines.push(Value::Object(event).to_string());
            }
            if lines.is_empty() {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(POST_INTERVAL) => {}
                }
                continue;
            }
            feed::accept(&self.device, &lines, &self.camera, AGENT_AWAY_MAX).await?;
            let facts = lines
                .iter()
                .map(|line| Event::parse(line).and_then(|event| event.fact()));
            let mut ledger = self.ledger.lock();
            for fact in facts {
                let fact = fact.map_err(|source| PostingError::Unreadable {
                    device: self.device.clone(),
                    source,
                })?;
                ledger.add(&self.device, fact);
            }
        }
        Ok(())
    }
}
