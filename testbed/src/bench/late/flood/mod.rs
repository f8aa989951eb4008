//! A hundred of a thousand units back at once after six hours, while nine hundred are live.
//!
//! Method: the hundred are real agents behind a link that is closed; each is posted the passages of
//! six hours. They stand for a hundred machines, so they run only where a processor of this one has
//! nothing else to do: the centre does not wait for theirs. Nine hundred simulated units have an old
//! window each hour and post 12 passages/s. Before and after, the centre is saturated by further
//! simulated units with prepared batches, beside the live ones: the rate of raw rows from commit to
//! commit, the mean of both, for a disk is not always the same. In between the link opens, without
//! any limit of its own. From that moment: until all windows of the hundred are exact in SQL and
//! REST; from POST to readable for 24 of the live units until the last raw row of the hundred is
//! stored; the rate of raw rows from commit to commit between a tenth and nine tenths of them; the
//! peak of resident memory of broker and aggregator. Windows of the nine hundred that were settled
//! before must keep their revision, and a live one may have no more revisions than its own unit sent
//! messages. At the end every window of all of them is compared with the recomputation.

mod before;

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::{Bucket, DeviceId, EventTime};
use tokio_util::sync::CancellationToken;

use before::{history, preload, saturate, start_live};

use super::camera::SharedLedger;
use super::exact::Expected;
use super::others::{self, Touched};
use super::{Scale, books, window_start_ms};
use crate::bench::bounds;
use crate::bench::commits::{Commit, CommitWatch, rate};
use crate::bench::figure::{Figure, Target};
use crate::bench::probe::{Probe, Times};
use crate::bench::stage::{Stage, to_f64};
use crate::bench::{procfs, progress};
use crate::clock;
use crate::link::{Plan, Shape};
use crate::recompute::{Findings, database as tables};

const EXACT_S_MAX: f64 = 60.0;
const LIVE_P99_MS_MAX: i32 = 3_000;
const DRAIN_SHARE_MIN: f64 = 0.8;

const PROBED_UNITS: usize = 24;
const WARM_UP: Duration = Duration::from_secs(10);
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(180);
const EXACT_WITHIN: Duration = Duration::from_secs(900);
const SILENCE_MAX: Duration = Duration::from_secs(120);
const SETTINGS_MS: f64 = 250.0 + 1_000.0;
const MIB: f64 = 1_048_576.0;

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was posted.
pub(super) async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let agents: Vec<String> = (1..=scale.returning)
        .map(|number| format!("back-{number:03}"))
        .collect();
    let names: Vec<&str> = agents.iter().map(String::as_str).collect();
    let simulated = scale.live_units + scale.saturating_units;
    let units = simulated + agents.len();
    let free = Plan::both(Shape::FREE);
    let stage = Stage::start_behind(simulated, &names, Some(free)).await?;
    stage.link()?.close();
    stage.agents_give_way()?;
    let to_ms = window_start_ms(clock::unix_ms());
    let ledger = preload(&stage, &agents, to_ms, scale).await?;
    let expected = Expected::of(&stage, &ledger, to_ms).await?;
    let ledger = SharedLedger::new(ledger.into());

    let (live, saturating) = stage.units.split_at(scale.live_units);
    let touched = Touched::default();
    history(&stage, live, &ledger, &touched).await?;
    let probed: Vec<DeviceId> = live.iter().take(PROBED_UNITS).cloned().collect();
    let from = Bucket::of(EventTime::from_millis(to_ms));
    let (mut probe, posts) = Probe::since(&stage, &probed, from).await?;
    let fleet = start_live(&stage, live, &ledger, &touched, probed, posts)?;
    fleet.connected(CONNECTED_WITHIN).await?;
    probe.watch(WARM_UP, |_| 0).await?;
    let saturated_before = saturate(&stage, saturating, scale).await?;
    let [calm, _] = probe.watch(WARM_UP, |_| 0).await?;

    let before = others::revisions(&stage, live).await?;
    let memory = Memory::of(&stage)?;
    let measured = Box::pin(flood(&stage, &expected, &mut probe)).await?;
    let (broker, aggregator) = memory.peaks()?;
    let saturated_after = saturate(&stage, saturating, scale).await?;
    let saturation = f64::midpoint(saturated_before, saturated_after);
    fleet.drain(DRAINED_WITHIN).await?;
    fleet.stop().await?;
    let after = others::revisions(&stage, live).await?;
    let moved = others::moved(&before, &after, to_ms);
    let surplus = {
        let touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
        others::surplus(&after, &touched, to_ms)
    };
    let findings = compare(&stage, &ledger, saturating).await?;
    ensure!(findings.exact(), "windows differ: {findings}");
    let posted = (ledger.lock().unwrap_or_else(PoisonError::into_inner)).passages();
    books::balanced(&stage, posted, saturating).await?;
    drop((probe, expected));
    stage.stop()?;

    let exact = Target::AtMost(EXACT_S_MAX);
    let live_max = Target::AtMost(LIVE_P99_MS_MAX.into());
    let memory = |name, mib, max| Figure::new(name, mib, "MiB", Target::AtMost(max));
    let none = Target::AtMost(0.0);
    let windows = to_f64(before.len() as u64);
    Ok(vec![
        Figure::new("flood.exact_in_sql", measured.sql_s, "s", exact),
        Figure::new("flood.exact_in_rest", measured.rest_s, "s", exact),
        Figure::new(
            "flood.live_p50",
            measured.live.quantile_ms(0.5),
            "ms",
            Target::Any,
        )
        .with_limit(calm.quantile_ms(0.5), "ms before the flood"),
        Figure::new(
            "flood.live_p99",
            measured.live.quantile_ms(0.99),
            "ms",
            live_max,
        )
        .with_limit(SETTINGS_MS, "linger and flush by themselves"),
        Figure::new(
            "flood.drain",
            measured.rows_per_s / saturation,
            "of saturation",
            Target::AtLeast(DRAIN_SHARE_MIN),
        )
        .with_limit(1.0, "simulated units that only send"),
        Figure::new(
            "flood.drain_rate",
            measured.rows_per_s,
            "rows/s",
            Target::Any,
        )
        .with_limit(saturation, "rows/s at saturation"),
        memory("flood.broker_memory", broker, bounds::broker_mib(units)),
        memory(
            "flood.aggregator_memory",
            aggregator,
            bounds::aggregator_mib(),
        ),
        Figure::new(
            "flood.others_settled_revised",
            to_f64(moved),
            "revisions",
            none,
        )
        .with_limit(windows, "windows looked at"),
        Figure::new("flood.others_surplus", to_f64(surplus), "revisions", none),
    ])
}

struct Measured {
    sql_s: f64,
    rest_s: f64,
    rows_per_s: f64,
    live: Times,
}

/// From the moment when the link opens to the last raw row.
async fn flood(stage: &Stage, expected: &Expected, probe: &mut Probe) -> Result<Measured> {
    let mut watch = CommitWatch::of_rows(stage).await?;
    let (database, names) = (stage.system.database().await?, expected.devices().to_vec());
    let drained = database.client().prepare(DRAINED).await?;
    let wanted = expected.passages();
    let (cpu, opened) = (stage.cpu()?, clock::monotonic());
    stage.link()?.open();
    let windows = async {
        let sql = expected.in_sql(EXACT_WITHIN).await?;
        let rest = expected.in_rest(stage.api()?, EXACT_WITHIN).await?;
        let since = |at: std::time::Instant| at.duration_since(opened).as_secs_f64();
        let (sql, rest) = (since(sql), since(rest));
        progress(&format!(
            "flood: exact in SQL {sql:.1} s, in REST {rest:.1} s"
        ));
        Ok::<_, anyhow::Error>((sql, rest))
    };
    let done = CancellationToken::new();
    let rows = async {
        let rows_stored = async {
            loop {
                let row = database.client().query_one(&drained, &[&names]).await?;
                if row.get::<_, i64>(0) >= wanted {
                    return Ok::<_, anyhow::Error>(());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let stored = CancellationToken::new();
        let stop = stored.clone();
        let (commits, waited) =
            tokio::join!(watch.collect(SILENCE_MAX, |_| stop.is_cancelled()), async {
                let outcome = rows_stored.await;
                stored.cancel();
                outcome
            });
        waited?;
        done.cancel();
        commits
    };
    let measured = async { tokio::try_join!(windows, rows) };
    let (measured, live) = tokio::join!(
        async {
            let outcome = measured.await;
            done.cancel();
            outcome
        },
        probe.watch_while(|| !done.is_cancelled(), |_| 0)
    );
    let ((sql_s, rest_s), commits) = measured?;
    let [mut live, _] = live?;
    probe.add_waiting(&mut live, LIVE_P99_MS_MAX.into());
    let took = opened.elapsed();
    let cores = stage.cpu()?.cores_since(&cpu, took);
    progress(&format!(
        "flood: drained in {:.0} s, {cores}",
        took.as_secs_f64()
    ));
    let (first, last) = commits
        .first()
        .zip(commits.last())
        .map(|(first, last)| (first.passages, last.passages))
        .context("nothing was stored")?;
    let tenth = (last - first) / 10;
    let steady: Vec<Commit> = commits
        .into_iter()
        .filter(|commit| (first + tenth..=last - tenth).contains(&commit.passages))
        .collect();
    Ok(Measured {
        sql_s,
        rest_s,
        rows_per_s: rate(&steady).context("too few commits to measure a rate")?,
        live,
    })
}

/// Raw rows of some units.
const DRAINED: &str = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 \
                       FROM stream_cursor c JOIN device d USING (device_key), \
                       unnest(c.stored) AS r WHERE d.device = ANY($1)";

/// The processes whose memory is bounded.
struct Memory {
    broker: u32,
    aggregator: u32,
}

impl Memory {
    fn of(stage: &Stage) -> Result<Self> {
        let broker = stage.system.broker.id().context("broker does not run")?;
        let aggregator = stage.system.aggregator.id();
        let aggregator = aggregator.context("aggregator does not run")?;
        procfs::reset_peak_resident(broker)?;
        procfs::reset_peak_resident(aggregator)?;
        Ok(Self { broker, aggregator })
    }

    fn peaks(&self) -> Result<(f64, f64)> {
        let mib = |process| {
            let bytes = procfs::peak_resident_bytes(process)?;
            Ok::<_, anyhow::Error>(to_f64(bytes) / MIB)
        };
        Ok((mib(self.broker)?, mib(self.aggregator)?))
    }
}

/// All windows of all units but those that only saturated.
async fn compare(stage: &Stage, ledger: &SharedLedger, apart: &[DeviceId]) -> Result<Findings> {
    let database = stage.system.database().await?;
    let (mut found, percentiles) = tables::windows(database.client()).await?;
    ensure!(percentiles.wrong == 0, "percentiles differ: {percentiles}");
    found.retain(|key, _| !apart.iter().any(|unit| unit.as_str() == key.device));
    let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ledger.compare_windows(&found))
}
