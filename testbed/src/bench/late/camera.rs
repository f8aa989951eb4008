//! Live traffic in front of real agents while something else goes on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use proto::{DeviceId, EventTime};
use service::tasks::TaskSet;
use tokio_util::sync::CancellationToken;

use crate::bench::events;
use crate::bench::http::Connection;
use crate::bench::probe::{Post, Posts};
use crate::clock;
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Ledger};

const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Where tasks book what was posted; locked for one entry at a time.
pub(super) type SharedLedger = Arc<Mutex<Ledger>>;

/// Books one passage.
pub(super) fn book(ledger: &SharedLedger, device: &str, fact: Fact) {
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    ledger.add(device, fact);
}

/// Cameras that post each passage when it passes, one request each.
#[derive(Debug)]
pub(super) struct Cameras(TaskSet);

impl Cameras {
    /// One at each of these doors, from now on.
    pub(super) fn start(
        doors: Vec<(DeviceId, SocketAddr)>,
        passages_per_s: f64,
        posts: &Posts,
        ledger: &SharedLedger,
    ) -> Self {
        let tasks = TaskSet::new(CancellationToken::new());
        let start = EventTime::from_millis(clock::unix_ms());
        for (seed, (device, door)) in (1_000..).zip(doors) {
            let camera = Camera {
                device,
                door,
                traffic: Traffic::new(Road::motorway(passages_per_s), seed, start),
                posts: posts.clone(),
                ledger: ledger.clone(),
            };
            let stop = tasks.token().clone();
            tasks.spawn("camera", camera.run(stop));
        }
        Self(tasks)
    }

    /// Ends them; whatever they posted is answered by then.
    ///
    /// # Errors
    /// A post was not accepted.
    pub(super) async fn stop(self) -> Result<()> {
        self.0.token().cancel();
        self.0.join(STOPPED_WITHIN).await?;
        if let Some(failure) = self.0.cause() {
            anyhow::bail!(failure);
        }
        Ok(())
    }
}

struct Camera {
    device: DeviceId,
    door: SocketAddr,
    traffic: Traffic,
    posts: Posts,
    ledger: SharedLedger,
}

impl Camera {
    async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut connection = Connection::open(self.door).await?;
        while !stop.is_cancelled() {
            let passage = self.traffic.next_passage();
            let at_ms = passage.event_time.as_millis();
            let wait_ms = u64::try_from(at_ms - clock::unix_ms()).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            // Nobody listens any more once the probe has seen enough.
            drop(self.posts.send(Post {
                device: self.device.clone(),
                at_ms: vec![at_ms],
            }));
            let request = events::single(self.device.as_str(), &passage);
            events::post(&mut connection, &request, 1).await?;
            book(&self.ledger, self.device.as_str(), Fact::from(&passage));
        }
        Ok(())
    }
}
