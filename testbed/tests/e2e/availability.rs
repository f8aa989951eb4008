//! Two aggregators share the shards; one comes, stops, is killed, sleeps, loses the broker.

use std::time::Duration;

use testbed::system::{CENTRE, Options, SECOND_CENTRE, STOPPED_WITHIN, System};

use crate::cameras::Cameras;
use crate::support::{HandUnit, alone, names, settled};

/// Enough that both halves of the shards have some.
const UNITS: [&str; 6] = ["ha-1", "ha-2", "ha-3", "ha-4", "ha-5", "ha-6"];
/// The leases of the test's system last 2 s; the rest is for a busy machine.
const WITHIN: Duration = Duration::from_secs(90);
/// Cursors written between two events: each of the units' some times.
const STRETCH: i64 = 30;

const TOKENS: &str = "SELECT sum(token)::int8 FROM shard_token";

/// Each of the four lives owns all shards for a while, and nothing goes on before it has written.
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
    let cameras = Cameras::of(&system, &UNITS, 70);
    let (mut second, _) = system.second_aggregator().expect("prepared");
    let events = async {
        wrote(&system, 1).await;
        second.start().expect("started");
        share(&system, 32, 32).await;
        goes_on(&system).await;
        system.aggregator.kill();
        share(&system, 0, 64).await;
        wrote(&system, 2).await;
        system.aggregator.start().expect("started again");
        share(&system, 32, 32).await;
        goes_on(&system).await;
        let stopped = tokio::task::block_in_place(|| second.stop(STOPPED_WITHIN));
        assert!(stopped.expect("in time").success(), "an orderly stop");
        share(&system, 64, 0).await;
        wrote(&system, 3).await;
        second.start().expect("started again");
        share(&system, 32, 32).await;
        goes_on(&system).await;
        // It holds sessions, perhaps an open transaction, and believes to be the owner of its shards
        // when it wakes up: long after its lease, when another has written under tokens of its own.
        system.aggregator.pause();
        share(&system, 0, 64).await;
        wrote(&system, 4).await;
        goes_on(&system).await;
        system.aggregator.resume();
        share(&system, 32, 32).await;
        goes_on(&system).await;
        // The broker ends the connection of one when another of its name comes.
        let before = tokens(&system).await;
        drop(HandUnit::connect_as(&system, CENTRE, &[]).await);
        let look = async || {
            let raised = tokens(&system).await - before;
            let less = || format!("{raised} tokens were raised after a broken connection");
            Ok((raised < 32).then(less))
        };
        let raised = system.until("the database", WITHIN, look).await;
        raised.expect("new tokens for all shards of it");
        share(&system, 32, 32).await;
    };
    cameras.during(events).await;
    let ledger = cameras.ledger();
    let verdict = settled(&system, &ledger).await;
    assert!(verdict.exact(), "{verdict}");
    let fencing = system.fencing().await.expect("watched");
    assert_eq!((fencing.writers, fencing.foreign), (4, 0), "{fencing:?}");
    let stopped = tokio::task::block_in_place(|| second.stop(STOPPED_WITHIN));
    assert!(stopped.expect("in time").success(), "an orderly stop");
    system.stop().expect("an orderly end");
}

async fn share(system: &System, first: i64, second: i64) {
    for (name, shards) in [(CENTRE, first), (SECOND_CENTRE, second)] {
        let moved = system.owns(name, shards, WITHIN).await;
        moved.expect("shards moved");
    }
}

async fn wrote(system: &System, lives: i64) {
    let written = system.wrote(lives, WITHIN).await;
    written.expect("each life so far has written");
}

/// Traffic reaches the database.
async fn goes_on(system: &System) {
    let before = system.fencing().await.expect("watched").writes;
    let look = async || {
        let writes = system.fencing().await?.writes - before;
        Ok((writes < STRETCH).then(|| format!("{writes} cursors written")))
    };
    let written = system.until("the aggregators", WITHIN, look).await;
    written.expect("traffic goes on");
}

async fn tokens(system: &System) -> i64 {
    let database = system.database().await.expect("answers");
    let row = database.client().query_one(TOKENS, &[]).await;
    row.expect("answers").get(0)
}
