//! The router's limits, against the running router.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex as SyncMutex, mpsc};

use futures_util::future::join_all;
use proto::{DeviceId, Shard, topic};
use tokio::runtime::Builder;

use super::*;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> Engine {
    Engine::start(&RouterSettings::default(), 16)
}

/// A router whose queue is said to be so long.
fn queueing(length: usize) -> (Engine, Arc<AtomicUsize>) {
    let (mut engine, said) = (engine(), Arc::new(AtomicUsize::new(length)));
    let queued = said.clone();
    engine.queued = Arc::new(move || queued.load(Ordering::Relaxed));
    (engine, said)
}

async fn routed(link: &mut Link) -> Routed {
    let next = async {
        loop {
            if let Some(routed) = link.next().await.unwrap() {
                return routed;
            }
        }
    };
    timeout(PATIENCE, next).await.expect("the router is silent")
}

#[tokio::test]
async fn senders_wait_while_the_queue_of_the_router_is_full() {
    let (engine, queued) = queueing(QUEUE_LEN_MAX);
    let mut link = engine.link("a").await.unwrap();
    link.subscribe(&[CANARY]);
    {
        let mut sent = pin!(link.flush());
        assert!(sent.as_mut().now_or_never().is_none());
        queued.store(QUEUE_LEN_MAX - 1, Ordering::Relaxed);
        let sent = timeout(PATIENCE, sent).await.expect("there is room");
        sent.unwrap();
    }
    assert!(matches!(routed(&mut link).await, Routed::Subscribed));
}

#[tokio::test]
async fn a_router_that_does_not_let_go_of_a_link_is_not_waited_for() {
    let (mut engine, _queued) = queueing(QUEUE_LEN_MAX);
    engine.patience = Duration::ZERO;
    let link = engine.link("a").await.unwrap();
    timeout(PATIENCE, link.close())
        .await
        .expect("given up when its time is over");
}

/// One thread is left beside those that may make links: what is handed to it first begins first.
#[test]
fn no_more_links_are_made_at_a_time_than_may_and_the_others_follow() {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(LINKING_MAX + 1);
    let runtime = runtime.build().unwrap();
    let (mut engine, door) = (engine(), Arc::new(SyncMutex::new(())));
    let (begun_in, begun) = mpsc::channel();
    let (make, entrance, begins) = (engine.make.clone(), door.clone(), begun_in.clone());
    engine.make = Arc::new(move |name| {
        begins.send(name.to_owned()).unwrap();
        drop(entrance.lock().unwrap());
        make(name)
    });
    let names: Vec<String> = (0..LINKING_MAX + 2).map(|n| format!("link {n}")).collect();
    let mut links = pin!(join_all(names.iter().map(|name| engine.link(name))));

    let held = door.lock().unwrap();
    runtime.block_on(async {
        assert!(links.as_mut().now_or_never().is_none());
        tokio::task::spawn_blocking(move || begun_in.send("no link".to_owned()).unwrap());
    });
    let mut first: Vec<String> = begun.iter().take(LINKING_MAX + 1).collect();
    first.sort_unstable();
    let may = names[..LINKING_MAX].iter().map(String::as_str);
    assert_eq!(first, may.chain(["no link"]).collect::<Vec<_>>());

    drop(held);
    let made = runtime.block_on(async { timeout(PATIENCE, links).await });
    let made = made.expect("the others follow");
    assert!(made.iter().all(Result::is_ok), "all have come in");
}

/// The router stops by itself when some 200 messages wait for a link; how far it goes beyond is how
/// many it hands over at a time.
#[tokio::test]
async fn a_link_that_is_not_read_is_handed_so_many_at_a_time_and_the_rest_when_it_is() {
    const MESSAGES: usize = 1_000;
    let engine = engine();
    let device = DeviceId::new("KV1").unwrap();
    let mut reader = engine.link("reader").await.unwrap();
    reader.subscribe(&[&topic::up_filter(Shard::of(&device))]);
    reader.flush().await.unwrap();
    assert!(matches!(routed(&mut reader).await, Routed::Subscribed));
    let mut writer = engine.link("writer").await.unwrap();
    let message = |_| {
        let publish = Publish::new(topic::up(&device), "x".to_owned(), false);
        Packet::Publish(publish, None)
    };
    let messages = (0..MESSAGES).map(message).collect();
    writer.hand_over(messages).await.unwrap();
    // It takes events in order: now it has handed over what it will.
    for _ in 0..2 {
        engine.settle().await.unwrap();
    }
    let at_a_time = usize::try_from(READ_COUNT_MAX).unwrap();
    let (mut heard, mut pauses) = (0, 0);
    while heard < MESSAGES {
        match routed(&mut reader).await {
            Routed::Message(_) => heard += 1,
            Routed::Paused => {
                assert!(pauses > 0 || heard == 2 * at_a_time, "{heard} at once");
                pauses += 1;
                reader.resume().await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pauses > 0, "all were handed over at once");
}
