//! Everything before the flood: what waits to come back, who is live, and what the centre can do.

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use proto::DeviceId;
use proto::frame::{Up, UpFrame};

use super::{CONNECTED_WITHIN, DRAINED_WITHIN, SILENCE_MAX};
use crate::bench::commits::{CommitWatch, rate};
use crate::bench::late::backlog::Backlog;
use crate::bench::late::camera::SharedLedger;
use crate::bench::late::others::{self, Touched};
use crate::bench::late::{Scale, WINDOW_MS};
use crate::bench::prepared::{Recipe, prepare};
use crate::bench::probe::{Post, Posts};
use crate::bench::progress;
use crate::bench::stage::Stage;
use crate::clock;
use crate::fleet::traffic::{Day, Road};
use crate::fleet::unit::Plates;
use crate::fleet::{Fleet, FleetOptions, Posted};
use crate::pki::BROKER_HOST;
use crate::recompute::Ledger;

const LIVE_PER_S: f64 = 12.0;
const OFFLINE_WINDOWS: i64 = 72;
/// Agents that are posted to at a time.
const POSTING: usize = 4;
/// Batches of one saturating unit, more than it can send.
const SATURATING_BATCHES: usize = 200;
/// An old batch of a live unit spreads over six hours.
const HISTORY_PER_S: f64 = 500.0 / 21_600.0;

/// Posts everything that the agents are to bring back.
pub(super) async fn preload(
    stage: &Stage,
    agents: &[String],
    to_ms: i64,
    scale: &Scale,
) -> Result<Ledger> {
    progress(&format!(
        "flood: posting {} passages to each of {} agents",
        scale.returning_passages,
        agents.len()
    ));
    let posting = agents.iter().zip(100..).map(|(agent, seed)| async move {
        let mut ledger = Ledger::of_windows();
        let backlog = Backlog {
            from_ms: to_ms - OFFLINE_WINDOWS * WINDOW_MS,
            to_ms,
            passages: scale.returning_passages,
            seed,
        };
        backlog
            .post(agent, stage.door(agent)?, &mut ledger)
            .await
            .with_context(|| format!("agent {agent}"))?;
        Ok::<_, anyhow::Error>(ledger)
    });
    stream::iter(posting)
        .buffer_unordered(POSTING)
        .try_fold(Ledger::of_windows(), |mut all, one| async move {
            all.absorb(one);
            Ok(all)
        })
        .await
}

/// Gives every live unit windows of the hours before.
pub(super) async fn history(
    stage: &Stage,
    live: &[DeviceId],
    ledger: &SharedLedger,
    touched: &Touched,
) -> Result<()> {
    let recipe = Recipe {
        batches: 1,
        passages_per_s: HISTORY_PER_S,
        plates: Plates::Hashed,
        seed: 15,
    };
    let load = prepare(live, recipe)?;
    for (device, frame) in live.iter().zip(&load.sample) {
        let Up::Passages(batch) = UpFrame::open(frame)?.message()? else {
            continue;
        };
        others::note(ledger, touched, device, &batch);
    }
    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    fleet.offer(true);
    fleet.drain(DRAINED_WITHIN).await?;
    fleet.stop().await?;
    Ok(())
}

/// Nine hundred units under live traffic, all of it booked.
pub(super) fn start_live(
    stage: &Stage,
    live: &[DeviceId],
    ledger: &SharedLedger,
    touched: &Touched,
    probed: Vec<DeviceId>,
    posts: Posts,
) -> Result<Fleet> {
    let tell = move |posted: &Posted<'_>| {
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
    };
    let options = FleetOptions::new(
        live.to_vec(),
        LIVE_PER_S,
        stage.system.broker_address(),
        BROKER_HOST,
        stage.system.pki.directory(),
    );
    Ok(Fleet::start(FleetOptions {
        recorder: Some(others::recorder(ledger.clone(), touched.clone(), tell)),
        road: Road {
            day: Day::Even,
            ..Road::motorway(LIVE_PER_S)
        },
        ..options
    })?)
}

/// Raw rows per second when units send as fast as receipts allow, the live ones included.
pub(super) async fn saturate(stage: &Stage, units: &[DeviceId], scale: &Scale) -> Result<f64> {
    let recipe = Recipe {
        batches: SATURATING_BATCHES,
        passages_per_s: LIVE_PER_S,
        plates: Plates::Hashed,
        seed: 16,
    };
    let load = prepare(units, recipe)?;
    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let mut watch = CommitWatch::of_rows(stage).await?;
    let (cpu, start) = (stage.cpu()?, clock::monotonic());
    fleet.offer(true);
    let commits = watch
        .collect(SILENCE_MAX, |commit| {
            commit.at.duration_since(start) >= scale.saturation
        })
        .await?;
    let cores = stage.cpu()?.cores_since(&cpu, start.elapsed());
    fleet.offer(false);
    let spent = fleet.receipted() == fleet.posted();
    ensure!(!spent, "the saturating units ran out of passages");
    fleet.stop().await?;
    let rows_per_s = rate(&commits).context("too few commits to measure a rate")?;
    progress(&format!(
        "flood: saturated at {rows_per_s:.0} rows/s, {cores}"
    ));
    Ok(rows_per_s)
}
