//! Cameras that post for as long as something happens, however long that takes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use testbed::feed::{self, Line};
use testbed::recompute::Ledger;
use testbed::system::{Camera, System};
use tokio_util::sync::CancellationToken;

use crate::support::{HOUR_MS, lines};

/// What each camera posts at once.
const PASSAGES: usize = 40;
/// From one post to the next: a few hundred passages a second from some units, which a busy machine
/// carries too.
const POST_INTERVAL: Duration = Duration::from_millis(250);
/// Posts go back and forth in the last hours but one.
const OLDEST_MS: i64 = 4 * HOUR_MS;
const STEP_MS: i64 = 60_000;
const STEPS: i64 = 180;
/// How long a camera waits for its agent to come back.
const AGENT_AWAY_MAX: Duration = Duration::from_secs(120);

/// The cameras of some agents.
pub(crate) struct Cameras<'a> {
    cameras: Vec<(&'a str, Camera)>,
    first_seed: u64,
    accepted: Mutex<Ledger>,
}

impl<'a> Cameras<'a> {
    /// Of these agents.
    pub(crate) fn of(system: &System, units: &[&'a str], first_seed: u64) -> Self {
        let camera = |unit: &&'a str| (*unit, system.agents[*unit].camera().clone());
        Self {
            cameras: units.iter().map(camera).collect(),
            first_seed,
            accepted: Mutex::new(Ledger::new()),
        }
    }

    /// Posts until `events` are over.
    pub(crate) async fn during<T>(&self, events: impl Future<Output = T>) -> T {
        let over = CancellationToken::new();
        let cameras = self.cameras.iter().zip(self.first_seed..);
        let posts = cameras.map(|((unit, camera), seed)| self.post(unit, camera, seed, &over));
        let events = async {
            let done = events.await;
            over.cancel();
            done
        };
        tokio::join!(join_all(posts), events).1
    }

    async fn post(&self, unit: &str, camera: &Camera, first_seed: u64, over: &CancellationToken) {
        let seeds = (first_seed..).step_by(self.cameras.len());
        for (seed, step) in seeds.zip((0..STEPS).cycle()) {
            let passed = lines(unit, PASSAGES, OLDEST_MS - step * STEP_MS, seed);
            let texts: Vec<String> = passed.iter().map(|line| line.text.clone()).collect();
            let posted = feed::accept(unit, &texts, camera, AGENT_AWAY_MAX).await;
            posted.expect("accepted");
            self.book(unit, passed);
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(POST_INTERVAL) => {}
            }
        }
    }

    fn book(&self, unit: &str, passed: Vec<Line>) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = passed.into_iter().map(|line| line.fact);
        facts.for_each(|fact| accepted.add(unit, fact));
    }

    /// What the agents have accepted so far.
    pub(crate) fn accepted(&self) -> BTreeMap<&'a str, u64> {
        let ledger = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let of_unit = |(unit, _): &(&'a str, Camera)| (*unit, ledger.passages_of(unit));
        self.cameras.iter().map(of_unit).collect()
    }

    /// What they have accepted.
    pub(crate) fn ledger(self) -> Ledger {
        let ledger = self.accepted.into_inner();
        ledger.unwrap_or_else(PoisonError::into_inner)
    }
}
