//! One unit after six hours without a link, on a link of 64 kbit/s with a round trip of 300 ms.
//!
//! Method: a real agent behind [`crate::link`]. While the link is closed, 260,000 passages of the
//! last six hours are posted to it as a camera would. The link opens, slow. From the moment when
//! its TCP connection stands: until all 72 windows are exact in SQL, and in REST. From then on a
//! camera posts 12 passages/s; each is followed until SQL can read it. The link's share is that of
//! bytes on the wire, headers of IP and TCP included, live ones too, over a stated time that begins
//! with the exact windows, or 10 s after the connection if they are not exact by then; the whole
//! backlog would take about five minutes. Then the link is set free, the rest arrives, and every
//! window and every raw row is compared.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::{Bucket, DeviceId, EventTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::camera::{Cameras, SharedLedger};
use super::exact::Expected;
use super::{Scale, WINDOW_MS, window_start_ms};
use crate::bench::commits::CommitWatch;
use crate::bench::figure::{Figure, Target};
use crate::bench::probe::Probe;
use crate::bench::progress;
use crate::bench::stage::{Stage, to_f64};
use crate::clock;
use crate::link::{Plan, Shape};
use crate::recompute::Ledger;

const AGENT: &str = "agent-1";
const KBIT_PER_S: u32 = 64;
const ROUND_TRIP: Duration = Duration::from_millis(300);
const LIVE_PER_S: f64 = 12.0;

const EXACT_S_MAX: f64 = 5.0;
const LIVE_P99_MS_MAX: i32 = 3_000;
const LINK_SHARE_MIN: f64 = 0.9;

const CONNECTED_WITHIN: Duration = Duration::from_secs(30);
/// Windows that are not exact by then are not waited for before the link is watched.
const WARM_UP: Duration = Duration::from_secs(10);
/// Even without summaries everything has arrived by then.
const EXACT_WITHIN: Duration = Duration::from_secs(900);
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// What the defaults cost a live passage at best: linger, company, half a round trip, flush.
const SETTINGS_MS: f64 = 50.0 + 250.0 + 150.0 + 1_000.0;

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was posted.
pub(super) async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let free = Plan::both(Shape::FREE);
    let stage = Stage::start_behind(0, &[AGENT], Some(free)).await?;
    let link = stage.link()?;
    link.close();
    let to_ms = window_start_ms(clock::unix_ms());
    let backlog = Backlog {
        from_ms: to_ms - scale.outage_windows * WINDOW_MS,
        to_ms,
        passages: scale.outage_passages,
        seed: 41,
    };
    progress(&format!("outage: posting {} passages", backlog.passages));
    let mut ledger = Ledger::new();
    let door = stage.door(AGENT)?;
    let buffered = backlog.post(AGENT, door, &mut ledger).await?;
    let expected = Expected::of(&stage, &ledger, to_ms).await?;
    let ledger = SharedLedger::new(ledger.into());

    let device = DeviceId::new(AGENT)?;
    let from = Bucket::of(EventTime::from_millis(to_ms));
    let (mut probe, posts) = Probe::since(&stage, std::slice::from_ref(&device), from).await?;
    let rows = CommitWatch::of_rows(&stage).await?;
    link.set_plan(Plan::both(Shape::slow(KBIT_PER_S, ROUND_TRIP)));
    let mut accepted = link.accepted();
    accepted.mark_unchanged();
    link.open();
    tokio::time::timeout(CONNECTED_WITHIN, accepted.changed())
        .await
        .context("agent does not connect")??;
    let connected = accepted.borrow().context("no connection")?;
    let cameras = Cameras::start(vec![(device, door)], LIVE_PER_S, &posts, &ledger);
    progress(&format!(
        "outage: connected, {} windows of {buffered} passages to be exact",
        expected.count()
    ));

    let done = CancellationToken::new();
    let windows = async {
        let sql = expected.in_sql(EXACT_WITHIN).await?;
        let rest = expected.in_rest(stage.api()?, EXACT_WITHIN).await?;
        let sql = sql.duration_since(connected.into_std()).as_secs_f64();
        let rest = rest.duration_since(connected.into_std()).as_secs_f64();
        progress(&format!(
            "outage: exact in SQL {sql:.2} s, in REST {rest:.2} s"
        ));
        Ok::<_, anyhow::Error>((sql, rest, link.counts().up_wire_bytes))
    };
    let exact = CancellationToken::new();
    let watched = async {
        let outcome = windows.await;
        exact.cancel();
        outcome
    };
    let share = async {
        tokio::select! {
            () = exact.cancelled() => {}
            () = tokio::time::sleep_until(connected + WARM_UP) => {}
        }
        let (bytes, stored, start) = (link.counts(), rows.total().await?, Instant::now());
        let mut span = Duration::ZERO;
        while span < scale.raw_phase && rows.total().await? < buffered {
            tokio::time::sleep(Duration::from_secs(1)).await;
            span = start.elapsed();
        }
        let moved = link.counts().up_wire_bytes - bytes.up_wire_bytes;
        let share = to_f64(moved) / span.as_secs_f64() / f64::from(KBIT_PER_S * 125);
        let stored = to_f64(rows.total().await? - stored) / span.as_secs_f64();
        progress(&format!(
            "outage: over {:.0} s {:.0} % of the link, {stored:.0} raw rows/s",
            span.as_secs_f64(),
            share * 100.0
        ));
        Ok::<_, anyhow::Error>((share, stored))
    };
    let measured = async {
        let outcome = tokio::try_join!(watched, share);
        done.cancel();
        outcome
    };
    let (measured, live) =
        tokio::join!(measured, probe.watch_while(|| !done.is_cancelled(), |_| 0));
    let ((sql_s, rest_s, exact_bytes), (share, stored_per_s)) = measured?;
    let [mut live, _] = live?;
    probe.add_waiting(&mut live, LIVE_P99_MS_MAX.into());
    ensure!(live.count() > 0, "no live passage became readable");
    cameras.stop().await?;

    link.set_plan(free);
    let ledger = std::mem::take(&mut *ledger.lock().map_err(|_| anyhow::anyhow!("poisoned"))?);
    stage
        .system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await?;
    let verdict = stage.system.judge(&ledger).await?;
    ensure!(verdict.exact(), "{verdict}");
    drop((probe, rows, expected));
    stage.stop()?;

    let sent_s = to_f64(exact_bytes) / f64::from(KBIT_PER_S * 125);
    let exact = Target::AtMost(EXACT_S_MAX);
    let live_max = Target::AtMost(LIVE_P99_MS_MAX.into());
    Ok(vec![
        Figure::new("outage.exact_in_sql", sql_s, "s", exact)
            .with_limit(sent_s, "s of the link for what was sent by then"),
        Figure::new("outage.exact_in_rest", rest_s, "s", exact),
        Figure::new("outage.live_p50", live.quantile_ms(0.5), "ms", Target::Any),
        Figure::new("outage.live_p99", live.quantile_ms(0.99), "ms", live_max)
            .with_limit(SETTINGS_MS, "linger, company, way and flush by themselves"),
        Figure::new(
            "outage.link_share",
            share,
            "of the link",
            Target::AtLeast(LINK_SHARE_MIN),
        )
        .with_limit(1.0, "the link"),
        Figure::new("outage.raw_rate", stored_per_s, "rows/s", Target::Any),
    ])
}
