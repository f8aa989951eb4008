//! A second aggregator started by mistake, and an owner that wakes up after it lost its shards.

use std::time::Duration;

use testbed::feed::{self, Pace};
use testbed::recompute::Ledger;
use testbed::system::{Options, READY_WITHIN, System};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNITS: [&str; 3] = ["two-1", "two-2", "two-3"];
/// Longer than the lease of a shard, so that the sleeper's shards are taken over.
const ASLEEP: Duration = Duration::from_secs(6);
const STRETCH: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_aggregators_and_a_sleeper_that_wakes_up_write_no_window_wrong() {
    let _alone = alone().await;
    let mut system = System::start(Options {
        agents: names(&UNITS),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let traffic: Vec<_> = (40..)
        .zip(UNITS)
        .map(|(seed, unit)| {
            (
                unit,
                lines(unit, 6_000, 3 * HOUR_MS, seed),
                system.agents[unit].camera().clone(),
            )
        })
        .collect();
    // An hour of traffic lasts about 20 seconds.
    let pace = Pace {
        speedup: Some(150.0),
        ..Pace::FULL
    };
    let posts = traffic
        .iter()
        .map(|(unit, lines, camera)| feed::post(unit, lines, camera, pace));
    let (mut second, _) = system.second_aggregator().expect("prepared");
    let confusion = async {
        tokio::time::sleep(STRETCH).await;
        second.start().expect("started");
        second
            .answers("healthz", READY_WITHIN)
            .await
            .expect("alive");
        tokio::time::sleep(STRETCH).await;
        // It holds open transactions and sessions, and believes to be the owner when it wakes up.
        system.aggregator.pause();
        tokio::time::sleep(ASLEEP).await;
        system.aggregator.resume();
        tokio::time::sleep(STRETCH).await;
        system.aggregator.kill();
        tokio::time::sleep(STRETCH).await;
        system.aggregator.start().expect("started again");
    };
    let (posted, ()) = tokio::join!(futures_util::future::try_join_all(posts), confusion);
    let mut ledger = Ledger::new();
    posted
        .expect("accepted")
        .into_iter()
        .for_each(|of_unit| ledger.merge(of_unit));
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    let verdict = system.judge(&ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    second.kill();
    system
        .aggregator
        .ready(READY_WITHIN)
        .await
        .expect("ready once it is alone");
    system.stop().expect("an orderly end");
}
