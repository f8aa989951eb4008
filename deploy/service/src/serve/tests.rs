use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use axum::Extension;
use axum::routing::{get as on_get, post};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};

use super::testing::{ask, ask_and_stay, get_request, start, start_on};
use super::*;
use crate::tls::testing::Pki;
use crate::tls::{Role, TimeFloor, client_config, server_config};

fn echo() -> Router {
    Router::new().route("/", on_get(async || "here")).route(
        "/",
        post(async |body: Bytes| format!("{} bytes", body.len())),
    )
}

fn post_head(length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn unix(path: &Path) -> Endpoint {
    Endpoint::Unix(path.to_owned())
}

#[tokio::test]
async fn requests_are_answered_over_tcp_on_one_connection() {
    let server = start(echo(), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        let request = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";
        let answer = ask_and_stay(&mut stream, request).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "5 bytes"));
    }
}

#[tokio::test]
async fn accepted_tcp_connections_send_small_answers_at_once() {
    let mut listener = HttpListener::bind(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let Accepted::Tcp(stream) = listener.accept().await.unwrap() else {
        panic!("not tcp")
    };
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn a_unix_socket_is_for_owner_and_group_and_goes_away_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = HttpListener::bind(&unix(&path)).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let stop = CancellationToken::new();
    let ended = start_on(listener, echo(), &stop, Limits::default());
    let answer = ask(UnixStream::connect(&path).await.unwrap(), &get_request("/")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
    stop.cancel();
    ended.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(HttpListener::bind(&unix(&path)).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_answers_and_a_file_that_is_no_socket_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let first = HttpListener::bind(&unix(&path)).await.unwrap();
    let second = HttpListener::bind(&unix(&path)).await;
    assert!(matches!(second, Err(ListenError::Busy(_))), "{second:?}");
    assert!(path.exists());
    drop(first);

    std::fs::write(&path, b"a letter").unwrap();
    let refused = HttpListener::bind(&unix(&path)).await;
    assert!(
        matches!(refused, Err(ListenError::NotASocket(_))),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
}

#[tokio::test]
async fn beyond_the_cap_a_connection_waits_until_another_ends() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let note = on_get(
        async move |axum::extract::Path(name): axum::extract::Path<String>| {
            seen.lock().unwrap().push(name);
            "noted"
        },
    );
    let router = Router::new().route("/{name}", note);
    let server = start(
        router,
        Limits {
            connections_max: 1,
            ..Limits::default()
        },
    )
    .await;
    let stay = |name: &str| format!("GET /{name} HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask_and_stay(&mut first, &stay("first-1")).await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second
        .write_all(get_request("/second").as_bytes())
        .await
        .unwrap();
    for name in ["first-2", "first-3", "first-4"] {
        ask_and_stay(&mut first, &stay(name)).await;
    }
    drop(first);
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("noted"), "{answer}");
    assert_eq!(
        *order.lock().unwrap(),
        ["first-1", "first-2", "first-3", "first-4", "second"]
    );
}

#[tokio::test]
async fn a_connection_that_sends_no_whole_head_is_closed() {
    let limits = Limits {
        header_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = start(echo(), limits).await;
    for sent in ["", "GET / HTTP/1.1\r\nhost: te"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(!received.starts_with(b"HTTP/1.1 200"), "{sent:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_fails_its_request() {
    let limits = Limits {
        body_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = start(echo(), limits).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let answer = ask(stream, &format!("{}half", post_head(8))).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        answer.body.contains("did not arrive within 20 ms"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_body_at_the_limit_is_read_and_one_beyond_is_413() {
    let limits = Limits {
        body_bytes_max: 10,
        ..Limits::default()
    };
    let server = start(echo(), limits).await;
    for (length, status) in [(10, 200), (11, 413)] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("{}{}", post_head(length), "x".repeat(length));
        assert_eq!(ask(stream, &request).await.status, status, "{length}");
    }
}

#[tokio::test]
async fn a_head_at_its_limits_is_read_and_one_beyond_is_refused() {
    let server = start(echo(), Limits::default()).await;
    // `get_request` has two header lines of its own.
    let many = |lines: usize| "x: y\r\n".repeat(lines - 2);
    let large = |bytes: usize| format!("x: {}\r\n", "y".repeat(bytes));
    let table = [
        (many(HEADERS_MAX), true),
        (many(HEADERS_MAX + 1), false),
        (large(HEAD_BYTES_MAX - 200), true),
        (large(HEAD_BYTES_MAX), false),
    ];
    for (lines, served) in table {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = get_request("/").replacen("\r\n", &format!("\r\n{lines}"), 1);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What the server left unread may reset the connection behind its answer.
        stream.read_to_end(&mut answer).await.ok();
        assert_eq!(
            answer.starts_with(b"HTTP/1.1 200"),
            served,
            "{} bytes",
            lines.len()
        );
        assert!(served || answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
    }
}

#[tokio::test]
async fn silent_connections_that_fill_every_place_give_way() {
    let limits = Limits {
        connections_max: 2,
        header_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = start(echo(), limits).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nhost: te").await.unwrap();
    let third = TcpStream::connect(server.address).await.unwrap();
    let answer = ask(third, &get_request("/")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_is_cut_and_frees_its_place() {
    let limits = Limits {
        connections_max: 1,
        write_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    // More than the sockets of both sides hold.
    let large = on_get(async || "x".repeat(64 << 20));
    let router = Router::new().route("/large", large).merge(echo());
    let server = start(router, limits).await;
    let mut deaf = TcpStream::connect(server.address).await.unwrap();
    deaf.write_all(get_request("/large").as_bytes())
        .await
        .unwrap();
    let next = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(ask(next, &get_request("/")).await.status, 200);
    let mut received = Vec::new();
    deaf.read_to_end(&mut received).await.ok();
    assert!(received.len() < 64 << 20, "it was cut");
}

/// A router whose one handler says that it began and waits to be let go.
fn held() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, released) = (begun.clone(), release.clone());
    let handler = on_get(async move || {
        begins.notify_one();
        released.notified().await;
        "finished"
    });
    (Router::new().route("/", handler), begun, release)
}

#[tokio::test]
async fn at_the_stop_running_requests_are_answered_and_no_new_ones_taken() {
    let (router, begun, release) = held();
    let server = start(router, Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    begun.notified().await;
    server.stop.cancel();
    // The listener closes first; until then a connection may still be taken by the kernel.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    release.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("finished"),
        "{answer}"
    );
    server.ended.await.unwrap();
}

#[tokio::test]
async fn after_the_grace_a_stuck_request_is_cut() {
    let (router, begun, _release) = held();
    let limits = Limits {
        grace: Duration::from_millis(10),
        ..Limits::default()
    };
    let server = start(router, limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(get_request("/").as_bytes()).await.unwrap();
    begun.notified().await;
    server.stop.cancel();
    server.ended.await.unwrap();
    let mut received = Vec::new();
    // Closed or reset, but never answered.
    stream.read_to_end(&mut received).await.ok();
    assert!(received.is_empty(), "{received:?}");
}

#[tokio::test]
async fn over_tls_a_request_knows_who_asks_and_new_certificates_need_no_restart() {
    let pki = Pki::new();
    let centre = pki.identity("centre-1", Role::Centre);
    let config = server_config(&centre, &pki.roots(), None).unwrap();
    let (renew, configs) = watch::channel(Arc::new(config));
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = HttpListener::bind_tls(address, configs).await.unwrap();
    let address = listener.local_addr().unwrap();
    let whoami = on_get(async |Extension(peer): Extension<PeerIdentity>| peer.to_string());
    let stop = CancellationToken::new();
    let router = Router::new().route("/", whoami);
    let ended = start_on(listener, router, &stop, Limits::default());

    let ask_as = async |name: &str| {
        let unit = pki.identity(name, Role::Unit);
        let config = client_config(&unit, &pki.roots(), &TimeFloor::new()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = connector
            .connect("centre-1".try_into().unwrap(), stream)
            .await;
        let mut stream = stream.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = "GET / HTTP/1.1\r\nhost: centre-1\r\n\r\n";
        (ask_and_stay(&mut stream, request).await.body, shown)
    };
    let (body, first) = ask_as("KV1").await;
    assert_eq!(body, "unit KV1");
    let renewed = pki.identity("centre-1", Role::Centre);
    renew.send_replace(Arc::new(
        server_config(&renewed, &pki.roots(), None).unwrap(),
    ));
    let (body, second) = ask_as("KV2").await;
    assert_eq!(body, "unit KV2");
    assert_ne!(first, second);
    stop.cancel();
    ended.await.unwrap();
}

#[test]
fn endpoints_are_written_as_they_are_read() {
    for text in ["127.0.0.1:8080", "[::1]:80", "unix:/run/verst/agent.sock"] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "8080",
        "localhost:80",
        "unix:",
        "unix:relative.sock",
        "127.0.0.1:70000",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
    }
    let local = |text: &str| text.parse::<Endpoint>().unwrap().is_local();
    assert!(local("127.0.0.1:1") && local("[::1]:1") && local("unix:/x") && !local("0.0.0.0:1"));
}
