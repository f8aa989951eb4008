//! A second aggregator started by mistake, and an owner that wakes up after it lost its shards.

use std::time::Duration;

use testbed::system::{Options, READY_WITHIN, System};

use crate::support::{SETTLED_WITHIN, alone, an_hour, names, post_hour};

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
    let traffic = an_hour(&system, &UNITS, 40);
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
    let (ledger, ()) = tokio::join!(post_hour(&traffic), confusion);
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
