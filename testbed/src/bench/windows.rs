//! Passages per second from units to committed windows, raw rows off.
//!
//! Method: 1,000 simulated units connect over mutual TLS, each with its batches of 500 as finished
//! frames (traffic of 12 passages/s a unit, so that a batch spans about 40 s and the load spreads
//! over the windows of an hour, as after an outage). The clock runs from the first commit after a
//! tenth of the passages to the last commit before nine tenths, seen as committed cursors in the
//! database: an edge at both ends, no ramp. At the end every passage must be in a window.
//!
//! Beside it: how fast one core decodes and folds the same frames, times the cores.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::frame::{Up, UpFrame};
use proto::window;

use super::commits::{Commit, CommitWatch, rate};
use super::figure::{Figure, Target};
use super::prepared::{BATCH_PASSAGES, Recipe, prepare};
use super::stage::{Stage, to_f64};
use super::{Scale, progress};
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::unit::Plates;

const TARGET_PER_S: f64 = 3_000_000.0;
const PASSAGES_PER_S_AND_UNIT: f64 = 12.0;
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const SILENCE_MAX: Duration = Duration::from_secs(60);
const FOLD_SPAN: Duration = Duration::from_secs(2);

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was sent.
pub async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(scale.units, &[]).await?;
    stage.set_aggregator("raw", "enabled", false.into()).await?;
    let batches = (scale.passages / (scale.units * BATCH_PASSAGES)).max(1);
    progress(&format!(
        "windows: making {batches} batches for each of {} units",
        scale.units
    ));
    let recipe = Recipe {
        batches,
        passages_per_s: PASSAGES_PER_S_AND_UNIT,
        plates: Plates::Hashed,
        seed: 11,
    };
    let load = prepare(&stage.units, recipe)?;
    let (total, sample) = (load.passages, load.sample);
    let fold_rate = fold_rate(&sample);

    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let mut watch = CommitWatch::new(&stage).await?;
    progress(&format!("windows: sending {total} passages"));
    let (cpu, start) = (stage.cpu()?, clock::monotonic());
    fleet.offer(true);
    let commits = watch
        .collect(SILENCE_MAX, |commit| commit.passages >= total)
        .await?;
    let cores = stage.cpu()?.cores_since(&cpu, start.elapsed());
    progress(&format!("windows: {cores}"));

    let steady: Vec<Commit> = commits
        .into_iter()
        .filter(|commit| (total / 10..=total / 10 * 9).contains(&commit.passages))
        .collect();
    let value =
        rate(&steady).context("too few commits to measure a rate: give it more passages")?;
    let in_windows = stage.in_windows().await?;
    ensure!(
        in_windows == total,
        "{in_windows} of {total} passages are in the windows"
    );
    fleet.stop().await?;
    drop(watch);
    stage.stop()?;
    let cores = to_f64(std::thread::available_parallelism().map_or(1, usize::from) as u64);
    let figure = Figure::new(
        "windows.rate",
        value,
        "passages/s",
        Target::AtLeast(TARGET_PER_S),
    )
    .with_limit(fold_rate * cores, "decode + fold alone, all cores");
    Ok(vec![figure])
}

/// Passages per second that one core decodes and folds.
fn fold_rate(frames: &[Bytes]) -> f64 {
    let start = clock::monotonic();
    let mut passages = 0;
    while start.elapsed() < FOLD_SPAN {
        for frame in frames.iter().take(64) {
            if let Ok(Up::Passages(batch)) = UpFrame::open(frame)
                .map_or_else(|_| Err(()), |frame| frame.message().map_err(|_| ()))
            {
                passages += batch.len() as u64;
                black_box(window::fold(&batch, |_| true));
            }
        }
    }
    to_f64(passages) / start.elapsed().as_secs_f64()
}
