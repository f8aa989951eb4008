//! Lies to the centre: frames of a stolen unit that say what cannot be, in every field.
//!
//! Each must be refused with its reason, to that unit alone, or dropped and counted, or settled as
//! the unit's own affair (a passage of the year 9999 goes to its side table). Afterwards the API must
//! answer, and the honest units' windows must stand.

mod forge;
mod streams;
mod table;

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proto::frame::Down;
use proto::receipt::RefusalReason;

use self::table::{Fate, lies};
use super::client::{Raw, Thief, WITHIN};
use super::counted::Counted;
use super::{Scene, count, to_f64};
use crate::bench::figure::{Figure, Target};

/// Between two looks at a counter.
const LOOK: Duration = Duration::from_millis(50);

/// Tells them all, one by one.
pub(super) async fn run(scene: &Scene) -> Result<Vec<Figure>> {
    let (system, device) = (&scene.system, &scene.stolen[3]);
    let thief = Thief::new(&system.pki, system.broker_address(), device)?;
    let mut raw = thief.unit().await?;
    let foreign = scene.a_stream().await?;
    let heard = || scene.fleet.counters().refusals.load(Ordering::Relaxed);
    let heard_before = heard();
    let lies = lies(&mut scene.dice(2), foreign)?;
    let told = lies.len() as u64;
    for (what, bytes, fate) in lies {
        let before = damaged(scene).await?;
        raw.publish(device, &bytes).await?;
        let outcome = match fate {
            Fate::Refused(reason) => refused(&mut raw, reason).await,
            Fate::Receipted => receipted(&mut raw).await,
            Fate::Dropped => dropped(scene, before).await,
            Fate::Taken => Ok(()),
        };
        outcome.with_context(|| format!("lie: {what}"))?;
    }
    raw.slam();
    answers(scene).await.context("after the lies")?;
    let heard = to_f64(heard() - heard_before);
    let mut figures = vec![
        count("lies.told", told, "frames"),
        Figure::new(
            "lies.refused_to_others",
            heard,
            "frames",
            Target::AtMost(0.0),
        ),
    ];
    figures.extend(streams::streams(scene).await?);
    Ok(figures)
}

/// A refused summary is told its cursor as well, by a receipt ahead of the refusal.
async fn refused(raw: &mut Raw, expected: RefusalReason) -> Result<()> {
    loop {
        match raw.heard(WITHIN).await {
            Some(Down::Receipt(_)) => {}
            Some(Down::Refusal(refusal)) if refusal.reason == expected => return Ok(()),
            other => bail!("expected a refusal as {}, got {other:?}", expected.word()),
        }
    }
}

async fn receipted(raw: &mut Raw) -> Result<()> {
    match raw.heard(WITHIN).await {
        Some(Down::Receipt(_)) => Ok(()),
        other => bail!("expected a receipt, got {other:?}"),
    }
}

async fn damaged(scene: &Scene) -> Result<f64> {
    let counted = Counted::of(&scene.system, &scene.system.aggregator).await?;
    Ok(counted.one("verst_aggregator_frames_dropped_total{reason=\"damaged\"}"))
}

async fn dropped(scene: &Scene, before: f64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + WITHIN;
    while damaged(scene).await? <= before {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "it was not counted as damaged"
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The pages that read what a unit says of itself still answer, about it and about all.
async fn answers(scene: &Scene) -> Result<()> {
    let liar = &scene.stolen[3];
    let pages = [
        "kvfv?limit=1000".to_owned(),
        format!("kvfv/{liar}"),
        format!("kvfv/{liar}/avg-speed"),
        "kvfv/sim-0001/avg-speed".to_owned(),
        format!("avg-speed?kvfv=sim-0001,{liar}"),
    ];
    for page in pages {
        let answer = scene
            .system
            .http()
            .get(scene.system.api(&page))
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{page}: {status}: {text}");
    }
    let database = scene.system.database().await?;
    for view in [
        "v_device",
        "v_backlog",
        "v_loss",
        "verst_completeness(now() - interval '1 day')",
    ] {
        let rows = database
            .client()
            .query(&format!("SELECT * FROM {view}"), &[])
            .await;
        rows.with_context(|| format!("{view} cannot be read any more"))?;
    }
    Ok(())
}
