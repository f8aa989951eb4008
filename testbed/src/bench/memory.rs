//! Resident memory of one real agent.
//!
//! Method: the kernel's own high-water mark of the resident set, reset before each span. First at 12 passages/s
//! with everything up. Then the broker goes away, passages are posted a thousand at a time until the
//! asked number waits in the buffer, the broker comes back, and the span ends when the centre has
//! counted all of them. For the drain to end in time the flush interval is lowered to 100 ms: a unit
//! has a bounded number of batches in flight, so its rate is set by how often receipts come.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::EventTime;
use tokio::task::block_in_place;
use toml::Value;

use super::commits::CommitWatch;
use super::figure::{Figure, Target};
use super::http::Connection;
use super::stage::{Stage, to_f64};
use super::{Scale, events, procfs, progress};
use crate::clock;
use crate::fleet::traffic::{Road, Traffic};
use crate::system::{READY_WITHIN, STOPPED_WITHIN};

const AGENT: &str = "agent-1";
const PASSAGES_PER_S: f64 = 12.0;
const LIVE_MIB_MAX: f64 = 24.0;
const BUFFERED_MIB_MAX: f64 = 96.0;
const MIB: f64 = 1_048_576.0;
const POST_PASSAGES: usize = 1_000;
const POSTS: usize = 64;
/// After this long without a commit everything has arrived.
const QUIET: Duration = Duration::from_secs(3);
const FLUSH_INTERVAL_MS: i64 = 100;
/// A drain that stands still for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Measures.
///
/// # Errors
/// The system does not come up, or passages are not counted.
pub async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(0, &[AGENT]).await?;
    stage
        .set_aggregator("windows", "flush_interval_ms", FLUSH_INTERVAL_MS.into())
        .await?;
    let quota = i64::try_from(scale.buffered * 400).unwrap_or(i64::MAX);
    stage
        .set_agent(AGENT, "buffer", "quota_bytes", Value::from(quota))
        .await?;
    let process = stage.agent_process(AGENT)?;

    progress(&format!(
        "memory: {PASSAGES_PER_S} passages/s for {:?}",
        scale.live
    ));
    let (live, posted) = peak_while(process, post_live(&stage, scale.live)).await?;
    progress(&format!("memory: {:.1} MiB", live / MIB));

    let mut watch = CommitWatch::new(&stage).await?;
    watch.until_quiet(QUIET).await?;
    block_in_place(|| stage.system.broker.stop(STOPPED_WITHIN));
    progress(&format!("memory: buffering {} passages", scale.buffered));
    let (filling, buffered) = peak_while(process, fill(&stage, scale.buffered)).await?;
    progress(&format!("memory: {:.1} MiB; draining", filling / MIB));
    stage.system.broker.start()?;
    stage.system.broker.ready(READY_WITHIN).await?;
    let total = posted + buffered;
    let drained = watch.collect(SILENCE_MAX, |commit| commit.passages >= total);
    let (draining, _) = peak_while(process, drained).await?;
    progress(&format!("memory: {:.1} MiB", draining / MIB));
    ensure!(
        stage.agent_process(AGENT)? == process,
        "the agent was restarted"
    );
    let in_windows = stage.in_windows().await?;
    ensure!(
        in_windows == total,
        "{in_windows} of {total} passages are in the windows"
    );
    drop(watch);
    stage.stop()?;
    let buffered = Target::AtMost(BUFFERED_MIB_MAX);
    Ok(vec![
        Figure::new(
            "memory.live",
            live / MIB,
            "MiB",
            Target::AtMost(LIVE_MIB_MAX),
        ),
        Figure::new("memory.filling", filling / MIB, "MiB", buffered),
        Figure::new("memory.draining", draining / MIB, "MiB", buffered),
    ])
}

/// The greatest resident memory while something goes on, and what came of it.
async fn peak_while<T>(process: u32, work: impl Future<Output = Result<T>>) -> Result<(f64, T)> {
    procfs::reset_peak_resident(process).context("the agent is gone")?;
    let outcome = work.await?;
    let peak = procfs::peak_resident_bytes(process).context("the agent is gone")?;
    Ok((to_f64(peak), outcome))
}

/// Passages one by one, as they come.
async fn post_live(stage: &Stage, span: Duration) -> Result<u64> {
    let mut connection = Connection::open(stage.door(AGENT)?).await?;
    let start_ms = clock::unix_ms();
    let end_ms = start_ms + i64::try_from(span.as_millis())?;
    let start = EventTime::from_millis(start_ms);
    let mut traffic = Traffic::new(Road::motorway(PASSAGES_PER_S), 31, start);
    let mut posted = 0;
    while traffic.next_at().as_millis() < end_ms {
        let passage = traffic.next_passage();
        let wait_ms = passage.event_time.as_millis() - clock::unix_ms();
        tokio::time::sleep(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))).await;
        events::post(&mut connection, &events::single(AGENT, &passage), 1).await?;
        posted += 1;
    }
    Ok(posted)
}

/// Passages by the thousand, as fast as they are taken.
async fn fill(stage: &Stage, passages: u64) -> Result<u64> {
    let mut connection = Connection::open(stage.door(AGENT)?).await?;
    let requests = events::requests(AGENT, clock::unix_ms(), POSTS, POST_PASSAGES);
    let mut posted = 0;
    for request in requests.iter().cycle() {
        if posted >= passages {
            break;
        }
        events::post(&mut connection, request, POST_PASSAGES).await?;
        posted += POST_PASSAGES as u64;
    }
    Ok(posted)
}
