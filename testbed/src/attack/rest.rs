//! The REST API: parameters that are none, ranges without end, SQL in every place, and connections
//! that say nothing or do not read.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use service::tasks::TaskSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Scene, count, to_f64};
use crate::bench::figure::{Figure, Target};
use crate::bench::stage::address_of;
use crate::clock;

/// An answer that takes longer does not come.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a question that is none is left without an answer.
const SILENCE: Duration = Duration::from_secs(1);
/// A connection that the server does not take for so long counts as not made.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
/// What a wrong or a good question may be answered with. 500 is not among them.
const STATUSES: [u16; 9] = [200, 304, 400, 404, 405, 414, 422, 431, 503];
/// Questions that a deaf client asks at once: more than the sockets of both sides hold of answers.
const DEAF_QUESTIONS: usize = 400;

/// Where there should be names, times, numbers and words.
const VALUES: [&str; 34] = [
    "",
    "sim-0001",
    "5m",
    "1h",
    "24h",
    "1000",
    "0",
    "-1",
    "1e309",
    "NaN",
    "18446744073709551616",
    "2026-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "-009999-01-01T00:00:00Z",
    "+1000000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "0000-00-00T00:00:00Z",
    "2026-01-01T00:00:00+99:99",
    "now()",
    "'; DROP TABLE device; --",
    "' OR '1'='1",
    "1; SELECT pg_sleep(60)",
    "sim-0001' UNION SELECT rolpassword FROM pg_authid --",
    "$1",
    "${jndi:ldap://x}",
    "../../etc/passwd",
    "%00",
    "%ff%fe",
    "%",
    "\u{202e}\u{0}",
    "А123ВС68",
    ",,,,,,",
    "sim-0001,sim-0001,sim-0002",
];
const NAMES: [&str; 10] = [
    "from", "to", "interval", "kvfv", "as_of", "limit", "after", "FROM", "from[]", "'",
];

/// All of it.
pub(super) async fn run(scene: &Scene) -> Result<Vec<Figure>> {
    let api = address_of(&scene.system.api(""))?;
    let known = standing(scene).await?;
    let mut dice = scene.dice(4);
    let mut answered = every_value_everywhere(api).await?;
    for number in 0..scene.scale.requests {
        let (request, bent) = request(&mut dice);
        let answer = if bent {
            ask_in_vain(api, &request).await?
        } else {
            ask(api, &request).await?
        };
        match answer {
            Some(status) if STATUSES.contains(&status) => answered += 1,
            None => {}
            Some(status) => anyhow::bail!(
                "request {number} was answered {status}: {}",
                String::from_utf8_lossy(&request)
            ),
        }
    }
    let stands = standing(scene).await?;
    let gone: Vec<_> = known.difference(&stands).collect();
    ensure!(gone.is_empty(), "gone from the database: {gone:?}");
    let mut figures = vec![
        count("rest.fuzzed", scene.scale.requests, "requests"),
        count("rest.answered", answered, "requests"),
    ];
    figures.extend(crowd(api, scene.scale.api_connections, Crowd::Silent).await?);
    figures.extend(crowd(api, scene.scale.api_connections, Crowd::Halfway).await?);
    figures.extend(crowd(api, scene.scale.api_connections.min(1_000), Crowd::Deaf).await?);
    Ok(figures)
}

/// What an injected statement would take away or bring in: units, relations, and who may log in.
/// None may run, either.
async fn standing(scene: &Scene) -> Result<BTreeSet<String>> {
    let database = scene.system.database().await?;
    let statement = "SELECT 'unit ' || device FROM device
        UNION ALL SELECT 'relation ' || relname FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'passage_%'
        UNION ALL SELECT 'roles ' || count(*) FROM pg_roles
        UNION ALL SELECT 'asleep ' || count(*) FROM pg_stat_activity
            WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    let rows = database.client().query(statement, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Every value in every place, one by one; how many were answered.
async fn every_value_everywhere(api: SocketAddr) -> Result<u64> {
    let mut answered = 0;
    for value in VALUES {
        let value = percent_encoded(value);
        let mut paths = vec![format!("/kvfv/{value}"), format!("/kvfv/{value}/avg-speed")];
        paths.extend(NAMES.iter().flat_map(|name| {
            let name = percent_encoded(name);
            [
                "/kvfv",
                "/avg-speed",
                "/kvfv/sim-0001/avg-speed",
                "/kvfv/sim-0001/ledger",
            ]
            .map(|path| format!("{path}?{name}={value}"))
        }));
        for path in paths {
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let status = ask(api, request.as_bytes()).await?;
            ensure!(
                status.is_some_and(|status| STATUSES.contains(&status)),
                "{path} was answered {status:?}"
            );
            answered += 1;
        }
    }
    Ok(answered)
}

/// A question, and whether it may not even be HTTP.
fn request(dice: &mut ChaCha8Rng) -> (Vec<u8>, bool) {
    let value = |dice: &mut ChaCha8Rng| match dice.random_range(0..20_u32) {
        0 => "9".repeat(dice.random_range(1..20_000)),
        _ => {
            let value = VALUES[dice.random_range(0..VALUES.len())];
            escaped(dice, value)
        }
    };
    let mut path = match dice.random_range(0..6_u32) {
        0 => format!("/kvfv/{}", value(dice)),
        1 => format!("/kvfv/{}/avg-speed", value(dice)),
        2 => "/avg-speed".to_owned(),
        3 => "/kvfv".to_owned(),
        4 => "/kvfv/sim-0001/avg-speed".to_owned(),
        _ => format!("/{}", value(dice)),
    };
    for number in 0..dice.random_range(0..6_u32) {
        path.push(if number == 0 { '?' } else { '&' });
        path.push_str(NAMES[dice.random_range(0..NAMES.len())]);
        path.push('=');
        path.push_str(&value(dice));
    }
    let method =
        ["GET", "GET", "GET", "GET", "POST", "DELETE", "PUT", "\u{1}"][dice.random_range(0..8)];
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes();
    let bent = dice.random_range(0..10_u32) == 0;
    if bent {
        let place = dice.random_range(0..request.len());
        request[place] = dice.random();
    }
    (request, bent)
}

/// Percent-encoded, except now and then.
fn escaped(dice: &mut ChaCha8Rng, text: &str) -> String {
    if dice.random_range(0..5_u32) == 0 {
        return text.to_owned();
    }
    percent_encoded(text)
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b',' | b'%' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The status of the answer; none when the connection was closed without one.
async fn ask(api: SocketAddr, request: &[u8]) -> Result<Option<u16>> {
    let asking = async {
        let mut socket = TcpStream::connect(api).await?;
        // Refused before it was written to its end: then the answer is there.
        socket.write_all(request).await.ok();
        Ok::<_, std::io::Error>(status(&mut socket).await)
    };
    let answer = timeout(WITHIN, asking).await;
    Ok(answer.context("no answer within a minute")??)
}

/// The same of a question that the server may wait for the rest of.
async fn ask_in_vain(api: SocketAddr, request: &[u8]) -> Result<Option<u16>> {
    let mut socket = timeout(WITHIN, TcpStream::connect(api)).await??;
    socket.write_all(request).await.ok();
    Ok(timeout(SILENCE, status(&mut socket)).await.unwrap_or(None))
}

async fn status(socket: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    // A reset behind the answer changes nothing of it.
    socket.take(64).read_to_end(&mut answer).await.ok();
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1)?.parse().ok()
}

/// How the many behave.
#[derive(Clone, Copy, PartialEq)]
enum Crowd {
    /// They say nothing.
    Silent,
    /// They begin a question and never end it.
    Halfway,
    /// They ask much and read nothing.
    Deaf,
}

/// The deaf have no room for what they are sent: it waits at the server.
async fn connect(api: SocketAddr, crowd: Crowd) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if crowd == Crowd::Deaf {
        socket.set_recv_buffer_size(4 * 1_024)?;
    }
    socket.connect(api).await
}

/// Many connections at once, and how long somebody with a question waits beside them.
async fn crowd(api: SocketAddr, most: usize, crowd: Crowd) -> Result<Vec<Figure>> {
    let tasks = TaskSet::new(CancellationToken::new());
    let (tell, mut told) = mpsc::channel(1_024);
    for _ in 0..most {
        let tell = tell.clone();
        tasks.spawn("crowd", async move {
            let connected = timeout(CONNECTED_WITHIN, connect(api, crowd)).await;
            let mut socket = connected.ok().and_then(Result::ok);
            if let Some(socket) = socket.as_mut().filter(|_| crowd == Crowd::Halfway) {
                // A server that has closed already has given it away.
                socket.write_all(b"GET /kvfv HTTP/1.1\r\nx:").await.ok();
            }
            if let Some(socket) = socket.as_mut().filter(|_| crowd == Crowd::Deaf) {
                let question = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
                let questions = question.repeat(DEAF_QUESTIONS);
                // The server stops reading when its answers are not read.
                drop(timeout(Duration::from_secs(1), socket.write_all(&questions)).await);
            }
            // The receiver is there until all have told.
            tell.send(socket).await.ok();
        });
    }
    drop(tell);
    let mut held = Vec::new();
    while let Some(socket) = told.recv().await {
        held.extend(socket);
    }
    let question = b"GET /kvfv?limit=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let begun = clock::monotonic();
    let status = ask(api, question).await?;
    let waited = begun.elapsed().as_secs_f64();
    ensure!(
        status == Some(200),
        "beside the crowd the answer is {status:?}"
    );
    let (made, wait) = match crowd {
        Crowd::Silent => ("rest.silent", "rest.wait_beside_silent"),
        Crowd::Halfway => ("rest.halfway", "rest.wait_beside_halfway"),
        Crowd::Deaf => ("rest.deaf", "rest.wait_beside_deaf"),
    };
    Ok(vec![
        Figure::new(made, to_f64(held.len() as u64), "connections", Target::Any),
        Figure::new(wait, waited, "s", Target::AtMost(30.0)),
    ])
}
