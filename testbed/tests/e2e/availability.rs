//! Two aggregators share the shards; one comes, stops, is killed, sleeps, loses the broker.

use std::time::Duration;

use testbed::system::{CENTRE, Options, SECOND_CENTRE, STOPPED_WITHIN, System};

use crate::support::{HandUnit, SETTLED_WITHIN, alone, an_hour, names, post_hour};

/// Enough that both halves of the shards have some.
const UNITS: [&str; 6] = ["ha-1", "ha-2", "ha-3", "ha-4", "ha-5", "ha-6"];
/// The leases of the test's system last 2 s; the rest is for a busy machine.
const MOVED_WITHIN: Duration = Duration::from_secs(60);
/// Some traffic between two events.
const STRETCH: Duration = Duration::from_millis(700);

const TOKENS: &str = "SELECT sum(token)::int8 FROM shard_token";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shards_move_with_every_coming_and_going_and_no_window_is_wrong() {
    let _alone = alone().await;
    let mut system = System::start(Options {
        agents: names(&UNITS),
        ..Options::default()
    })
    .await
    .expect("a running system");
    system.watch_fencing().await.expect("watched");
    let traffic = an_hour(&system, &UNITS, 70);
    let (mut second, _) = system.second_aggregator().expect("prepared");
    let events = async {
        tokio::time::sleep(STRETCH).await;
        second.start().expect("started");
        share(&system, 32, 32).await;
        tokio::time::sleep(STRETCH).await;
        system.aggregator.kill();
        share(&system, 0, 64).await;
        system.aggregator.start().expect("started again");
        share(&system, 32, 32).await;
        tokio::time::sleep(STRETCH).await;
        let stopped = tokio::task::block_in_place(|| second.stop(STOPPED_WITHIN));
        assert!(stopped.expect("in time").success(), "an orderly stop");
        share(&system, 64, 0).await;
        second.start().expect("started again");
        share(&system, 32, 32).await;
        tokio::time::sleep(STRETCH).await;
        // It holds sessions, perhaps an open transaction, and believes to be an owner when it wakes.
        system.aggregator.pause();
        share(&system, 0, 64).await;
        tokio::time::sleep(STRETCH).await;
        system.aggregator.resume();
        share(&system, 32, 32).await;
        // The broker ends the connection of one when another of its name comes.
        let tokens = tokens(&system).await;
        drop(HandUnit::connect_as(&system, CENTRE, &[]).await);
        while self::tokens(&system).await < tokens + 32 {
            tokio::time::sleep(STRETCH).await;
        }
        assert_eq!(system.shards_of(CENTRE).await.expect("asked"), 32);
    };
    let (ledger, ()) = tokio::join!(post_hour(&traffic), events);
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    let verdict = system.judge(&ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    let fencing = system.fencing().await.expect("watched");
    assert_eq!(fencing.foreign, 0, "{fencing:?}");
    // Both have written at least; how many of their lives did depends on the moments.
    assert!(fencing.writes > 0 && fencing.writers >= 2, "{fencing:?}");
    let stopped = tokio::task::block_in_place(|| second.stop(STOPPED_WITHIN));
    assert!(stopped.expect("in time").success(), "an orderly stop");
    system.stop().expect("an orderly end");
}

async fn share(system: &System, first: i64, second: i64) {
    for (name, shards) in [(CENTRE, first), (SECOND_CENTRE, second)] {
        let moved = system.owns(name, shards, MOVED_WITHIN).await;
        moved.expect("shards moved");
    }
}

async fn tokens(system: &System) -> i64 {
    let database = system.database().await.expect("answers");
    let row = database.client().query_one(TOKENS, &[]).await;
    row.expect("answers").get(0)
}
