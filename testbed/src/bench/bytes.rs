//! What a passage costs on the wire.
//!
//! Method: a simulated unit sends prepared batches of 500 to the running system over mutual TLS;
//! counted are the bytes that it writes to its socket from the first batch to the last receipt:
//! frame, MQTT, TLS records, with its share of acknowledgements (TCP and IP headers depend on the
//! link and are left out). Once for each thing that can happen to plates. Beside it the entropy of
//! the same traffic, field by field. Then a real agent, alone at 12 passages/s with its default
//! delays, behind a counting relay: what it costs a day, both ways.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use proto::{EventTime, Passage};

use super::figure::{Figure, Target};
use super::http::Connection;
use super::prepared::{BATCH_PASSAGES, Recipe, prepare};
use super::relay::Relay;
use super::stage::{Stage, to_f64};
use super::{Scale, entropy, events, progress};
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::traffic::{Road, Traffic};
use crate::fleet::unit::Plates;
use crate::pki::BROKER_HOST;

const CASES: [(Plates, &str, f64); 3] = [
    (Plates::Kept, "bytes.plates_kept", 9.0),
    (Plates::Hashed, "bytes.plates_hashed", 12.5),
    (Plates::Dropped, "bytes.plates_dropped", 4.0),
];
const PASSAGES_PER_S: f64 = 12.0;
const BATCHES: usize = 200;
const SEED: u64 = 14;
const AGENT: &str = "agent-1";
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
const DRAINED_WITHIN: Duration = Duration::from_secs(300);
const DAY_S: f64 = 86_400.0;
const MB: f64 = 1_000_000.0;

/// Measures.
///
/// # Errors
/// The system does not come up, or passages are not receipted.
pub async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(CASES.len(), &[AGENT]).await?;
    let mut figures = Vec::new();
    for (unit, (plates, name, target)) in CASES.into_iter().enumerate() {
        let value = per_passage(&stage, unit, plates).await?;
        let limit = entropy::bytes_per_passage(&traffic(plates));
        progress(&format!("bytes: {name}: {value:.2}, entropy {limit:.2}"));
        let figure = Figure::new(name, value, "bytes/passage", Target::AtMost(target));
        figures.push(figure.with_limit(limit, "entropy of its fields"));
    }
    let (up, down, batches_per_s) = lone_unit(&mut stage, scale.live).await?;
    progress(&format!(
        "bytes: a lone unit at {PASSAGES_PER_S}/s: {batches_per_s:.1} posts/s"
    ));
    let day = |per_s: f64| per_s * DAY_S / MB;
    figures.push(Figure::new(
        "bytes.lone_unit_up",
        day(up),
        "MB/day",
        Target::Any,
    ));
    figures.push(Figure::new(
        "bytes.lone_unit_down",
        day(down),
        "MB/day",
        Target::Any,
    ));
    stage.stop()?;
    Ok(figures)
}

async fn per_passage(stage: &Stage, unit: usize, plates: Plates) -> Result<f64> {
    let recipe = Recipe {
        batches: BATCHES,
        passages_per_s: PASSAGES_PER_S,
        plates,
        seed: SEED,
    };
    let load = prepare(&stage.units[unit..=unit], recipe)?;
    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let written = || fleet.counters().wire.up.load(Ordering::Relaxed);
    let before = written();
    fleet.offer(true);
    fleet.drain(DRAINED_WITHIN).await?;
    let bytes = written() - before;
    let resent = fleet.counters().resent_batches.load(Ordering::Relaxed);
    ensure!(resent == 0, "{resent} batches were sent twice");
    fleet.stop().await?;
    Ok(to_f64(bytes) / to_f64(load.passages))
}

fn traffic(plates: Plates) -> Vec<Passage> {
    let mut traffic = Traffic::new(
        Road::motorway(PASSAGES_PER_S),
        SEED,
        EventTime::from_millis(0),
    );
    (0..BATCHES * BATCH_PASSAGES)
        .map(|_| {
            let mut passage = traffic.next_passage();
            passage.plate = plates.keep(passage.plate, SEED);
            passage
        })
        .collect()
}

/// Bytes per second up and down, posts per second.
async fn lone_unit(stage: &mut Stage, span: Duration) -> Result<(f64, f64, f64)> {
    let relay = Relay::start(stage.system.broker_address()).await?;
    let broker = format!("{BROKER_HOST}:{}", relay.address().port());
    stage
        .set_agent(AGENT, "uplink", "broker", broker.into())
        .await?;
    let mut connection = Connection::open(stage.door(AGENT)?).await?;
    let start_ms = clock::unix_ms();
    let start = EventTime::from_millis(start_ms);
    let mut traffic = Traffic::new(Road::motorway(PASSAGES_PER_S), 41, start);
    // The first seconds hold the handshake, which a day has once.
    let warm_ms = i64::try_from(span.as_millis())? / 4;
    let mut from = None;
    let mut posts = 0_u32;
    loop {
        let passage = traffic.next_passage();
        let at_ms = passage.event_time.as_millis();
        let wait_ms = u64::try_from(at_ms - clock::unix_ms()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let now = clock::monotonic();
        if at_ms - start_ms >= warm_ms && from.is_none() {
            from = Some((now, relay.bytes()));
        }
        if let Some((start, (up, down))) = from
            && now.duration_since(start) >= span
        {
            let elapsed = now.duration_since(start).as_secs_f64();
            let (up_now, down_now) = relay.bytes();
            ensure!(up_now > up, "the agent sends nothing");
            let per_s = |bytes: u64| to_f64(bytes) / elapsed;
            return Ok((
                per_s(up_now - up),
                per_s(down_now - down),
                f64::from(posts) / elapsed,
            ));
        }
        events::post(&mut connection, &events::single(AGENT, &passage), 1).await?;
        posts += u32::from(from.is_some());
    }
}
