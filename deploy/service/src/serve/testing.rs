//! A bare HTTP client and a running server, for the tests of this crate.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A server on a port of its own.
pub(super) struct Running {
    pub(super) address: std::net::SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) ended: JoinHandle<()>,
}

pub(super) async fn start(router: Router, limits: Limits) -> Running {
    let listener = HttpListener::bind(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let ended = start_on(listener, router, &stop, limits);
    Running {
        address,
        stop,
        ended,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test waits for this task itself"
)]
pub(super) fn start_on(
    listener: HttpListener,
    router: Router,
    stop: &CancellationToken,
    limits: Limits,
) -> JoinHandle<()> {
    tokio::spawn(http(listener, router, stop.clone(), limits))
}

/// Asks a server made for this one request.
pub(crate) async fn get(router: Router, path: &str) -> Answer {
    let server = start(router, Limits::default()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let answer = ask(stream, &get_request(path)).await;
    server.stop.cancel();
    server.ended.await.unwrap();
    answer
}

pub(super) fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

/// Sends `request` and reads until the server closes.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    answer_of(&text)
}

/// Sends `request` and reads one answer that has a `content-length`, on a connection that stays.
pub(super) async fn ask_and_stay<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &str,
) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut byte = [0];
    let whole = |text: &str| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?;
        (body.len() == length.parse::<usize>().ok()?).then_some(())
    };
    while whole(&text).is_none() {
        stream.read_exact(&mut byte).await.unwrap();
        text.push(char::from(byte[0]));
    }
    answer_of(&text)
}

fn answer_of(text: &str) -> Answer {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
