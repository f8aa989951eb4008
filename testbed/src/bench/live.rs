//! A billion passages a day, as they happen: freshness, cost, and the API beside it.
//!
//! Method: 1,000 units post 11.6 passages/s each (simulated, agents' defaults: 250 ms linger, batches
//! of up to 500), and three real agents are posted to at the same rate, one request a passage, so
//! that the simulated units are seen to stand for real ones. Every unit has a day of history before.
//! After a warm-up:
//! - freshness: from the POST of a passage to the moment when SQL can read it, for 24 of the
//!   simulated units and the three agents (`bench::probe`); beside it the receipt times of
//!   all simulated units, which cannot be shorter;
//! - CPU of broker, aggregator and all PostgreSQL processes over the same span, from `/proc`, the
//!   probe's own backend left out;
//! - then, the load going on, `GET avg-speed` for a day of 5-minute windows, on an open schedule
//!   (`bench::schedule`): first of every unit once, within 10 s, when nothing of it is in the
//!   aggregator's memory; then of random units, 500 a second; beside it the same schedule against
//!   `/healthz` of the same process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use proto::window::BUCKET_MS;
use proto::{DeviceId, EventTime};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use service::tasks::TaskSet;
use tokio_util::sync::CancellationToken;

use super::figure::{Figure, Target};
use super::http::{self, Connection};
use super::prepared::{Recipe, prepare};
use super::probe::{Post, Posts, Probe, Times};
use super::stage::{Stage, address_of, to_f64};
use super::{Scale, events, progress, schedule};
use crate::clock;
use crate::fleet::traffic::{Road, Traffic};
use crate::fleet::unit::Plates;
use crate::fleet::{Fleet, FleetOptions, Posted, Recorder};
use crate::pki::BROKER_HOST;

const PASSAGES_PER_S_AND_UNIT: f64 = 11.6;
const AGENTS: [&str; 3] = ["agent-1", "agent-2", "agent-3"];
const PROBED_UNITS: usize = 24;

const P50_MS_MAX: f64 = 1_000.0;
const P99_MS_MAX: f64 = 2_000.0;
const CENTRE_CORES_MAX: f64 = 0.5;
const GET_P99_MS_MAX: f64 = 10.0;
const GETS_PER_S: u32 = 500;
const FIRST_GETS_SPAN: Duration = Duration::from_secs(10);

/// A day of history: every window of it has some 10 passages.
const HISTORY_BATCHES: usize = 6;
const HISTORY_PASSAGES_PER_S: f64 = 1.0 / 30.0;
const DAY_MS: i64 = 24 * 3_600_000;
/// The agent's and the aggregator's defaults, which bound the freshness from below.
const LINGER_MS: f64 = 250.0;
const FLUSH_MS: f64 = 1_000.0;

const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Measures.
///
/// # Errors
/// The system does not come up, or something posted is not counted.
pub async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let stage = Stage::start(scale.units, &AGENTS).await?;
    fill_history(&stage).await?;

    let probed: Vec<DeviceId> = stage.units.iter().take(PROBED_UNITS).cloned().collect();
    let agents = AGENTS
        .map(DeviceId::new)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let watched: Vec<DeviceId> = probed.iter().chain(&agents).cloned().collect();
    let (mut probe, posts) = Probe::new(&stage, &watched).await?;
    let fleet = Fleet::start(FleetOptions {
        recorder: Some(recorder(probed, posts.clone())),
        plates: Plates::Hashed,
        ..FleetOptions::new(
            stage.units.clone(),
            PASSAGES_PER_S_AND_UNIT,
            stage.system.broker_address(),
            BROKER_HOST,
            stage.system.pki.directory(),
        )
    })?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let cameras = start_cameras(&stage, &agents, &posts)?;

    progress(&format!("live: warm-up of {:?}", scale.warm_up));
    probe.watch(scale.warm_up, |_| 0).await?;
    progress(&format!("live: measuring for {:?}", scale.live));
    let (cpu, probe_cpu) = (stage.cpu()?, probe.own_cpu()?);
    let (start, posted, receipts) = (
        clock::monotonic(),
        fleet.posted(),
        fleet.counters().receipt_times(),
    );
    let is_agent = |device: &DeviceId| usize::from(agents.contains(device));
    let [simulated, real] = probe.watch(scale.live, is_agent).await?;
    let span = start.elapsed();
    let mut cores = stage.cpu()?.cores_since(&cpu, span);
    let own = probe.own_cpu()?.saturating_sub(probe_cpu).as_secs_f64() / span.as_secs_f64();
    cores.postgres -= own;
    let rate = to_f64(fleet.posted() - posted) / span.as_secs_f64();
    let receipts = fleet.counters().receipt_times().since(&receipts);
    progress(&format!(
        "live: {rate:.0} passages/s, {cores}, probe {own:.3}"
    ));
    ensure!(
        simulated.count() > 0 && real.count() > 0,
        "no passage became readable"
    );

    let api = stage.api()?;
    let days = day_requests(&stage.units);
    progress(&format!(
        "live: the first GET avg-speed of each unit in {FIRST_GETS_SPAN:?}"
    ));
    let per_s = u32::try_from(days.len())?.div_ceil(10);
    let first = schedule::run(api, days.clone(), per_s, FIRST_GETS_SPAN).await?;
    progress(&format!(
        "live: {GETS_PER_S} GET avg-speed a second for {:?}",
        scale.gets
    ));
    let (cpu, start) = (stage.cpu()?, clock::monotonic());
    let gets = schedule::run(api, shuffled(&days), GETS_PER_S, scale.gets).await?;
    let busy = stage.cpu()?.cores_since(&cpu, start.elapsed());
    progress(&format!("live: with requests, {busy}"));
    let health = address_of(&stage.system.aggregator.page("healthz"))?;
    let floor = vec![http::get("/healthz")];
    let floor = schedule::run(health, floor, GETS_PER_S, scale.gets / 3).await?;

    cameras.token().cancel();
    cameras.join(STOPPED_WITHIN).await?;
    if let Some(failure) = cameras.cause() {
        anyhow::bail!(failure);
    }
    fleet.drain(DRAINED_WITHIN).await?;
    ensure!(fleet.posted() == fleet.receipted(), "passages were refused");
    fleet.stop().await?;
    drop(probe);
    stage.stop()?;

    let of_settings = "linger and flush interval by themselves";
    let freshness = |name, times: &Times, share, max, limit| {
        Figure::new(name, times.quantile_ms(share), "ms", Target::AtMost(max))
            .with_limit(limit, of_settings)
    };
    let receipt = |name, share| {
        let ms = receipts.quantile_ms(share).map_or(f64::NAN, to_f64);
        Figure::new(name, ms, "ms", Target::Any)
    };
    let (half, whole) = ((LINGER_MS + FLUSH_MS) / 2.0, LINGER_MS + FLUSH_MS);
    let centre = Target::AtMost(CENTRE_CORES_MAX);
    let get = Target::AtMost(GET_P99_MS_MAX);
    Ok(vec![
        Figure::new(
            "live.rate",
            rate,
            "passages/s",
            Target::AtLeast(scale.live_rate_min()),
        ),
        freshness("live.freshness_p50", &simulated, 0.5, P50_MS_MAX, half),
        freshness("live.freshness_p99", &simulated, 0.99, P99_MS_MAX, whole),
        freshness("live.agents_freshness_p50", &real, 0.5, P50_MS_MAX, half),
        freshness("live.agents_freshness_p99", &real, 0.99, P99_MS_MAX, whole),
        receipt("live.receipt_p50", 0.5),
        receipt("live.receipt_p99", 0.99),
        Figure::new("live.centre_cores", cores.centre(), "cores", centre),
        Figure::new("live.broker_cores", cores.broker, "cores", Target::Any),
        Figure::new(
            "live.aggregator_cores",
            cores.aggregator,
            "cores",
            Target::Any,
        ),
        Figure::new("live.postgres_cores", cores.postgres, "cores", Target::Any),
        Figure::new(
            "live.first_get_p50",
            first.quantile_ms(0.5),
            "ms",
            Target::Any,
        ),
        Figure::new(
            "live.first_get_p99",
            first.quantile_ms(0.99),
            "ms",
            Target::Any,
        ),
        Figure::new("live.get_p50", gets.quantile_ms(0.5), "ms", Target::Any)
            .with_limit(floor.quantile_ms(0.5), "ms for /healthz"),
        Figure::new("live.get_p99", gets.quantile_ms(0.99), "ms", get)
            .with_limit(floor.quantile_ms(0.99), "ms for /healthz"),
    ])
}

/// Gives every unit a day of windows, the way that all data takes.
async fn fill_history(stage: &Stage) -> Result<()> {
    progress("live: a day of history for every unit");
    let recipe = Recipe {
        batches: HISTORY_BATCHES,
        passages_per_s: HISTORY_PASSAGES_PER_S,
        plates: Plates::Hashed,
        seed: 13,
    };
    let load = prepare(&stage.units, recipe)?;
    ensure!(load.units.len() == stage.units.len());
    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    fleet.offer(true);
    fleet.drain(DRAINED_WITHIN).await?;
    fleet.stop().await?;
    Ok(())
}

/// Tells the probe of every passage of the probed units.
fn recorder(probed: Vec<DeviceId>, posts: Posts) -> Recorder {
    Arc::new(move |posted: Posted<'_>| {
        if probed.contains(posted.device) {
            let passages = posted.passages;
            let at_ms = (0..passages.len())
                .map(|place| passages.event_time(place).as_millis())
                .collect();
            // After the last watch nobody listens any more.
            drop(posts.send(Post {
                device: posted.device.clone(),
                at_ms,
            }));
        }
    })
}

/// Posts to each agent what passes in front of it, one request a passage, when it passes.
fn start_cameras(stage: &Stage, agents: &[DeviceId], posts: &Posts) -> Result<TaskSet> {
    let tasks = TaskSet::new(CancellationToken::new());
    let now_ms = clock::unix_ms();
    for (number, device) in agents.iter().enumerate() {
        let door = stage.door(device.as_str())?;
        let (device, posts, stop) = (device.clone(), posts.clone(), tasks.token().clone());
        let road = Road::motorway(PASSAGES_PER_S_AND_UNIT);
        let traffic = Traffic::new(road, 77 + number as u64, EventTime::from_millis(now_ms));
        tasks.spawn("camera", async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                outcome = camera(device, door, traffic, posts) => outcome,
            }
        });
    }
    Ok(tasks)
}

async fn camera(
    device: DeviceId,
    door: std::net::SocketAddr,
    mut traffic: Traffic,
    posts: Posts,
) -> Result<()> {
    let mut connection = Connection::open(door).await?;
    loop {
        let passage = traffic.next_passage();
        let at_ms = passage.event_time.as_millis();
        let wait_ms = u64::try_from(at_ms - clock::unix_ms()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        drop(posts.send(Post {
            device: device.clone(),
            at_ms: vec![at_ms],
        }));
        events::post(
            &mut connection,
            &events::single(device.as_str(), &passage),
            1,
        )
        .await?;
    }
}

/// `GET avg-speed` of the last 24 hours of each unit, by whole windows.
fn day_requests(units: &[DeviceId]) -> Vec<Vec<u8>> {
    let to_ms = clock::unix_ms() / BUCKET_MS * BUCKET_MS;
    let time = |ms| Timestamp::from_millisecond(ms).unwrap_or_default();
    let (from, to) = (time(to_ms - DAY_MS), time(to_ms));
    let request = |unit| {
        http::get(&format!(
            "/kvfv/{unit}/avg-speed?from={from}&to={to}&interval=5m"
        ))
    };
    units.iter().map(request).collect()
}

/// Many of them in random order.
fn shuffled(requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const REQUESTS: usize = 4_096;
    let mut random = ChaCha8Rng::seed_from_u64(5);
    (0..REQUESTS)
        .map(|_| requests[random.random_range(0..requests.len())].clone())
        .collect()
}
