//! Durable POSTs at one real agent.
//!
//! Method: a real agent whose broker is away, as on a unit whose link is down (nothing else runs
//! that would not run there). Each connection posts, waits for the answer — which comes after the
//! fsync — and posts again. The load is cut into segments; between them the bare `fdatasync` rate of
//! the same directory is taken, so that both see the same disk at the same time. First one passage
//! a request over 64 connections, then 1,000 over 4.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Result, bail};
use service::tasks::TaskSet;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::figure::{Figure, Target, median};
use super::http::Connection;
use super::schedule::Times;
use super::stage::{Stage, to_f64};
use super::{Scale, disk, events, progress};
use crate::clock;
use crate::system::STOPPED_WITHIN;

const AGENT: &str = "agent-1";

const SINGLES_PER_S: f64 = 10_000.0;
const SINGLES_P99_MS_MAX: f64 = 10.0;
const SINGLE_CONNECTIONS: usize = 64;
/// Different requests, so that no cache of anything helps.
const SINGLE_REQUESTS: usize = 8_192;
/// What reaches a disk with a lone passage, at least.
const SINGLE_SYNC_BYTES: usize = 4_096;

const BULK_PER_S: f64 = 150_000.0;
const BULK_PASSAGES: usize = 1_000;
const BULK_CONNECTIONS: usize = 4;
const BULK_REQUESTS: usize = 64;
/// What 1,000 passages take in the store, about.
const BULK_SYNC_BYTES: usize = 16 * 1_024;

const SYNC_SPAN: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(30);

/// One kind of request.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    requests: usize,
    passages: usize,
    connections: usize,
    sync_bytes: usize,
}

/// What one kind reached.
struct Reached {
    passages_per_s: f64,
    times: Times,
    syncs_per_s: f64,
}

/// Measures single passages.
///
/// # Errors
/// The agent does not come up, or refuses something.
pub async fn singles(scale: &Scale) -> Result<Vec<Figure>> {
    let reached = measure(
        scale,
        Kind {
            name: "posts",
            requests: SINGLE_REQUESTS,
            passages: 1,
            connections: SINGLE_CONNECTIONS,
            sync_bytes: SINGLE_SYNC_BYTES,
        },
    )
    .await?;
    let p99 = reached.times.quantile_ms(0.99);
    let sync_ms = 1_000.0 / reached.syncs_per_s;
    Ok(vec![
        Figure::new(
            "posts.rate",
            reached.passages_per_s,
            "posts/s",
            Target::AtLeast(SINGLES_PER_S),
        )
        .with_limit(
            reached.syncs_per_s,
            "bare fdatasync/s, shared by 64 connections",
        ),
        Figure::new(
            "posts.p50",
            reached.times.quantile_ms(0.5),
            "ms",
            Target::Any,
        )
        .with_limit(sync_ms, "ms a bare fdatasync"),
        Figure::new("posts.p99", p99, "ms", Target::AtMost(SINGLES_P99_MS_MAX))
            .with_limit(sync_ms, "ms a bare fdatasync"),
    ])
}

/// Measures 1,000 passages a request.
///
/// # Errors
/// The agent does not come up, or refuses something.
pub async fn bulk(scale: &Scale) -> Result<Vec<Figure>> {
    let reached = measure(
        scale,
        Kind {
            name: "bulk",
            requests: BULK_REQUESTS,
            passages: BULK_PASSAGES,
            connections: BULK_CONNECTIONS,
            sync_bytes: BULK_SYNC_BYTES,
        },
    )
    .await?;
    let limit = reached.syncs_per_s * to_f64(BULK_PASSAGES as u64);
    let rate = reached.passages_per_s;
    Ok(vec![
        Figure::new("bulk.rate", rate, "passages/s", Target::AtLeast(BULK_PER_S))
            .with_limit(limit, "passages/s at one bare fdatasync a request"),
    ])
}

async fn measure(scale: &Scale, kind: Kind) -> Result<Reached> {
    let mut stage = Stage::start(0, &[AGENT]).await?;
    let system = &mut stage.system;
    block_in_place(|| {
        system.aggregator.stop(STOPPED_WITHIN);
        system.broker.stop(STOPPED_WITHIN);
    });
    let door = stage.door(AGENT)?;
    let directory = stage.system.directory().to_owned();
    let requests = events::requests(AGENT, clock::unix_ms(), kind.requests, kind.passages);
    let requests = Arc::new(requests);
    progress(&format!("{}: warm-up", kind.name));
    segment(door, &requests, kind, scale.warm_up / 4).await?;

    let (mut rates, mut syncs, mut times) = (Vec::new(), Vec::new(), Times::new()?);
    for number in 1..=scale.pairs {
        let sync = sync_rate(&directory, kind)?;
        let (rate, segment_times) = segment(door, &requests, kind, scale.post_segment).await?;
        times.add(&segment_times)?;
        progress(&format!(
            "{}: segment {number}: {rate:.0} passages/s, p99 {:.1} ms, bare fdatasync {sync:.0}/s",
            kind.name,
            segment_times.quantile_ms(0.99),
        ));
        rates.push(rate);
        syncs.push(sync);
    }
    stage
        .system
        .agents
        .values_mut()
        .for_each(|agent| agent.server.kill());
    let (Some(passages_per_s), Some(syncs_per_s)) = (median(rates), median(syncs)) else {
        bail!("no segment was measured");
    };
    Ok(Reached {
        passages_per_s,
        times,
        syncs_per_s,
    })
}

fn sync_rate(directory: &Path, kind: Kind) -> Result<f64> {
    Ok(block_in_place(|| {
        disk::sync_rate(directory, kind.sync_bytes, SYNC_SPAN)
    })?)
}

/// Passages per second over all connections, and the time of each request.
async fn segment(
    door: SocketAddr,
    requests: &Arc<Vec<Vec<u8>>>,
    kind: Kind,
    span: Duration,
) -> Result<(f64, Times)> {
    let tasks = TaskSet::new(CancellationToken::new());
    let (sender, parts) = sync_channel(kind.connections);
    let start = clock::monotonic();
    for place in 0..kind.connections {
        let (requests, sender) = (requests.clone(), sender.clone());
        tasks.spawn("poster", async move {
            let mut connection = Connection::open(door).await?;
            let mut times = Times::new()?;
            let mut number = place;
            while start.elapsed() < span {
                let sent = clock::monotonic();
                let request = &requests[number % requests.len()];
                events::post(&mut connection, request, kind.passages).await?;
                times.record(sent.elapsed());
                number += kind.connections;
            }
            sender.send(times)?;
            anyhow::Ok(())
        });
    }
    drop(sender);
    tasks.join(span + GRACE).await?;
    let elapsed = start.elapsed();
    if let Some(failure) = tasks.cause() {
        bail!(failure);
    }
    let mut all = Times::new()?;
    for part in parts.try_iter() {
        all.add(&part)?;
    }
    let passages = all.count() * kind.passages as u64;
    Ok((to_f64(passages) / elapsed.as_secs_f64(), all))
}
