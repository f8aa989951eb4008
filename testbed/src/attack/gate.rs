//! The gate: fuzzed packets before and after authentication, handshakes that never end, takeovers, a
//! revoked certificate, and as many idle connections as it takes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use service::tasks::TaskSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::{Raw, Thief, WITHIN};
use super::counted::Counted;
use super::{MIB, STOLEN, Scene, count, packets as fuzz, to_f64};
use crate::bench::bounds;
use crate::bench::figure::{Figure, Target};
use crate::bench::procfs;
use crate::clock;

/// Packets that one connection tries to send; most are closed before the last.
const PACKETS_A_CONNECTION: usize = 64;
/// How long a connection may leave a ping unanswered before it is given up: it waits for the rest of
/// a packet that will never come.
const SILENCE: Duration = Duration::from_millis(300);
/// Fuzzing a million packets takes a quarter of an hour without optimisation.
const PACKETS_WITHIN: Duration = Duration::from_hours(1);

fn thieves(scene: &Scene) -> Result<Vec<Thief>> {
    let system = &scene.system;
    let thief = |device| Thief::new(&system.pki, system.broker_address(), device);
    scene.stolen.iter().map(thief).collect()
}

/// Fuzzed packets: one part in ten instead of TLS, one in ten instead of CONNECT, the rest after it.
pub(super) async fn packets(scene: &Scene) -> Result<Vec<Figure>> {
    let before = Counted::of(&scene.system, &scene.system.broker).await?;
    let share = scene.scale.packets / STOLEN as u64 + 1;
    let mut dice = scene.dice(1);
    let tasks = TaskSet::new(CancellationToken::new());
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let broker = scene.system.broker_address();
    for thief in thieves(scene)? {
        let mut dice: ChaCha8Rng = rand::SeedableRng::seed_from_u64(dice.random());
        let sent = sent.clone();
        tasks.spawn("fuzz", async move {
            let mut done = 0;
            while done < share {
                let count = match dice.random_range(0..100_u32) {
                    0..80 => talk(&thief, &mut dice).await,
                    80..90 => instead_of_connect(&thief, &mut dice).await,
                    _ => instead_of_tls(broker, &mut dice).await,
                };
                // One at least, so that a refused takeover does not spin.
                done += count.max(1);
                sent.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    // Each ends by itself, when it has sent its share.
    tasks.join(PACKETS_WITHIN).await?;
    let after = Counted::of(&scene.system, &scene.system.broker).await?;
    let grown = |name: &str| after.sum(name) - before.sum(name);
    let judged = grown("verst_broker_packets_received_total")
        + grown("verst_broker_violations_total")
        + grown("verst_broker_handshake_failures_total");
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    let closed = grown("verst_broker_violations_total");
    let reasons = after.reasons("verst_broker_violations_total")
        + after.reasons("verst_broker_handshake_failures_total");
    Ok(vec![
        count("packets.sent", sent, "packets"),
        Figure::new("packets.judged", judged, "packets", Target::Any),
        Figure::new(
            "packets.violations",
            closed,
            "connections",
            Target::AtLeast(1.0),
        ),
        Figure::new(
            "packets.reasons",
            to_f64(reasons as u64),
            "kinds",
            Target::AtLeast(5.0),
        ),
    ])
}

/// What a unit's certificate does not allow, one by one: each is refused or ends its connection.
pub(super) async fn forbidden(scene: &Scene) -> Result<Vec<Figure>> {
    let thieves = thieves(scene)?;
    let mut turn = thieves.iter().cycle();
    let mut tried = 0;
    for number in 0..fuzz::forbidden(&thieves[0].device).len() {
        // A name whose last connection was just cut may have to wait for its turn.
        let (thief, mut raw) = loop {
            let thief = turn.next().context("somebody was robbed")?;
            if let (raw, Some(0)) = thief.connect().await? {
                break (thief, raw);
            }
        };
        let (what, bytes) = fuzz::forbidden(&thief.device).swap_remove(number);
        // The broker may close before it was all written.
        raw.send(&bytes).await.ok();
        ensure!(raw.ends_within(WITHIN).await, "{what} is let pass");
        tried += 1;
    }
    for (what, bytes) in fuzz::forbidden_connects(&thieves[0].device) {
        let mut raw = thieves[0].tls().await?;
        raw.send(&bytes).await.ok();
        let answer = raw.packet().await;
        let welcome = matches!(answer, Some(crate::fleet::mqtt::Packet::ConnAck(0)));
        ensure!(!welcome, "{what} is let in");
        ensure!(raw.ends_within(WITHIN).await, "{what} stays connected");
        tried += 1;
    }
    Ok(vec![count("forbidden.refused", tried, "packets")])
}

/// One connection that is let in, and what it then says. How many packets it got rid of.
async fn talk(thief: &Thief, dice: &mut ChaCha8Rng) -> u64 {
    let Ok((mut raw, Some(0))) = thief.connect().await else {
        return 1;
    };
    let mut sent = 1;
    for _ in 0..8 {
        let part = PACKETS_A_CONNECTION / 8;
        let mut bytes = fuzz::after_connect(dice, &thief.device, part);
        bytes.extend_from_slice(b"\xc0\0");
        if raw.send(&bytes).await.is_err() {
            break;
        }
        sent += part as u64 + 1;
        if !ponged(&mut raw, SILENCE).await {
            break;
        }
    }
    raw.slam();
    sent
}

/// Whether the ping was answered: it is read up to there.
pub(super) async fn ponged(raw: &mut Raw, within: Duration) -> bool {
    loop {
        match raw.packet_within(within).await {
            Some(crate::fleet::mqtt::Packet::PingResp) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

async fn instead_of_connect(thief: &Thief, dice: &mut ChaCha8Rng) -> u64 {
    let bytes = fuzz::instead_of_connect(dice, &thief.device);
    if let Ok(mut raw) = thief.tls().await {
        // The broker may close before it was all written.
        raw.send(&bytes).await.ok();
        raw.ends_within(SILENCE).await;
        raw.slam();
    }
    1
}

async fn instead_of_tls(broker: std::net::SocketAddr, dice: &mut ChaCha8Rng) -> u64 {
    let bytes = fuzz::instead_of_tls(dice);
    if let Ok(Ok(mut socket)) = timeout(WITHIN, TcpStream::connect(broker)).await {
        socket.write_all(&bytes).await.ok();
        let mut answer = [0; 64];
        // An alert, the end, or silence: each will do.
        drop(timeout(SILENCE, socket.read(&mut answer)).await);
        socket.set_zero_linger().ok();
    }
    1
}

/// Handshakes that never end, in more than all places: a newcomer gets in all the same.
pub(super) async fn slow(scene: &Scene) -> Result<Vec<Figure>> {
    let broker = scene.system.broker_address();
    let mut held = Vec::new();
    for number in 0..scene.scale.slow {
        let mut socket = timeout(WITHIN, TcpStream::connect(broker)).await??;
        // Every other one begins a record and never ends it.
        if number % 2 == 0 {
            socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await.ok();
        }
        held.push(socket);
    }
    let thief = Thief::new(&scene.system.pki, broker, &scene.stolen[0])?;
    let begun = clock::monotonic();
    let (raw, code) = thief.connect().await?;
    let took = begun.elapsed();
    ensure!(code == Some(0), "the newcomer is refused: {code:?}");
    raw.slam();
    Ok(vec![
        count("slow.handshakes", held.len() as u64, "connections"),
        Figure::new(
            "slow.newcomer",
            took.as_secs_f64(),
            "s",
            Target::AtMost(30.0),
        ),
    ])
}

/// One stolen name from many places at once: the gate takes a few turns and refuses the rest.
pub(super) async fn takeovers(scene: &Scene) -> Result<Vec<Figure>> {
    let broker = scene.system.broker_address();
    let thief = Thief::new(&scene.system.pki, broker, &scene.stolen[1])?;
    let before = Counted::of(&scene.system, &scene.system.broker).await?;
    let mut held = Vec::new();
    for _ in 0..scene.scale.takeovers {
        held.push(thief.connect().await?.0);
    }
    let after = Counted::of(&scene.system, &scene.system.broker).await?;
    let refused = "verst_broker_connects_refused_total{reason=\"takeovers\"}";
    let refused = after.one(refused) - before.one(refused);
    let taken = "verst_broker_takeovers_total";
    let taken = after.one(taken) - before.one(taken);
    ensure!(refused > 0.0, "nobody was refused after {taken} takeovers");
    held.into_iter().for_each(Raw::slam);
    Ok(vec![
        Figure::new("takeovers.taken", taken, "connections", Target::Any),
        Figure::new(
            "takeovers.refused",
            refused,
            "connections",
            Target::AtLeast(1.0),
        ),
    ])
}

/// A live connection whose certificate is revoked ends, and its unit does not come back.
pub(super) async fn revoked(scene: &Scene) -> Result<Vec<Figure>> {
    let (system, device) = (&scene.system, &scene.stolen[2]);
    let thief = Thief::new(&system.pki, system.broker_address(), device)?;
    let mut raw = thief.unit().await?;
    tokio::task::block_in_place(|| system.pki.revoke(device.as_str()))?;
    let begun = clock::monotonic();
    ensure!(
        raw.ends_within(WITHIN).await,
        "the revoked unit stays connected"
    );
    let took = begun.elapsed();
    let back = thief.connect().await;
    ensure!(
        !matches!(back, Ok((_, Some(0)))),
        "the revoked unit came back"
    );
    let seconds = took.as_secs_f64();
    Ok(vec![Figure::new(
        "revoked.cut_after",
        seconds,
        "s",
        Target::AtMost(5.0),
    )])
}

/// Idle connections with good certificates until the gate says that it is full.
pub(super) async fn idle(scene: &Scene) -> Result<Vec<Figure>> {
    let broker = scene.system.broker.id().context("the broker has ended")?;
    let resident = || procfs::resident_bytes(broker);
    let before = resident()?;
    let places = Arc::new(Semaphore::new(32));
    let tasks = TaskSet::new(CancellationToken::new());
    let (tell, mut told) = tokio::sync::mpsc::channel(1_024);
    let address = scene.system.broker_address();
    for device in &scene.idle {
        let thief = Thief::new(&scene.system.pki, address, device)?;
        let (places, tell) = (places.clone(), tell.clone());
        tasks.spawn("idle", async move {
            let place = places.acquire_owned().await;
            let connected = thief.connect().await;
            drop(place);
            // The receiver is there until all have told.
            tell.send(connected.ok()).await.ok();
        });
    }
    drop(tell);
    let (mut held, mut full, mut failed) = (Vec::new(), 0_u64, 0_u64);
    while let Some(outcome) = told.recv().await {
        match outcome {
            Some((raw, Some(0))) => held.push(raw),
            Some((_, Some(3))) => full += 1,
            _ => failed += 1,
        }
    }
    let kib = to_f64(resident()?.saturating_sub(before)) / 1_024.0 / to_f64(held.len() as u64);
    let open = Counted::of(&scene.system, &scene.system.broker).await?;
    let open = open.one("verst_broker_connections_open");
    let figures = vec![
        count("idle.held", held.len() as u64, "connections"),
        Figure::new("idle.open_at_the_gate", open, "connections", Target::Any),
        count("idle.refused_as_full", full, "connections"),
        Figure::new(
            "idle.failed",
            to_f64(failed),
            "connections",
            Target::AtMost(0.0),
        ),
        Figure::new(
            "idle.memory_each",
            kib,
            "KiB",
            Target::AtMost(1_024.0 * bounds::CONNECTION_MIB),
        ),
        Figure::new(
            "idle.broker_memory",
            to_f64(resident()?) / MIB,
            "MiB",
            Target::Any,
        ),
    ];
    held.into_iter().for_each(Raw::slam);
    Ok(figures)
}
