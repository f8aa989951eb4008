//! Limits that are driven over in memory, and one that the kernel keeps.

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::listener::UNIX_BACKLOG;
use super::testing::get_request;
use super::*;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a peer hears when another waits for its place, and its answer is there only later, or never.
async fn heard_in_a_crowd(crowded_grace: Duration, is_answered: bool) -> String {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, released) = (begun.clone(), release.clone());
    let slow = get(async move || {
        begins.notify_one();
        released.notified().await;
        "answered"
    });
    let places = Places::yielding_after(Duration::ZERO, 1);
    let served = Served {
        router: Router::new().route("/", slow),
        shutdown: CancellationToken::new(),
        places: places.clone(),
        crowded_grace,
        limits: Limits::default(),
    };
    let place = places.take().await;
    let (mut peer, stream) = duplex(1_024);
    peer.write_all(get_request("/").as_bytes()).await.unwrap();
    let serving = async {
        served.requests(stream, None).await;
        drop(place);
    };
    let waiting = async {
        begun.notified().await;
        let mut taken = std::pin::pin!(places.take());
        for _ in 0..10_000 {
            tokio::select! {
                _ = taken.as_mut() => return,
                () = yield_now() => {}
            }
        }
        if is_answered {
            release.notify_one();
        }
        taken.await;
    };
    let both = async { tokio::join!(serving, waiting) };
    timeout(PATIENCE, both)
        .await
        .expect("the place is given up");
    let mut heard = String::new();
    peer.read_to_string(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn an_answer_that_takes_too_long_while_others_wait_is_cut() {
    let heard = heard_in_a_crowd(Duration::ZERO, false).await;
    assert_eq!(heard, "");
    let heard = heard_in_a_crowd(PATIENCE, true).await;
    assert!(heard.ends_with("answered"), "{heard}");
}

#[tokio::test]
async fn beyond_the_queue_of_a_unix_socket_the_kernel_refuses_until_one_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut listener = HttpListener::bind(&Endpoint::Unix(path.clone()))
        .await
        .unwrap();
    crate::descriptors::make_room_for(usize::try_from(UNIX_BACKLOG).unwrap());
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: u32 = most.trim().parse().unwrap();
    let mut waiting = Vec::new();
    // The kernel keeps one more than it was asked for.
    for _ in 0..=UNIX_BACKLOG.min(most) {
        waiting.push(UnixStream::connect(&path).await.unwrap());
    }
    let refused = UnixStream::connect(&path).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    listener.accept().await.unwrap();
    UnixStream::connect(&path).await.unwrap();
}
