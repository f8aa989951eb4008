//! One stolen unit that sends far more than its share, never waiting for a receipt; measured are the
//! receipts of the others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::{EventTime, Passage, PassageBatch, Seq, StreamId};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{Raw, Thief, WITHIN};
use super::counted::Counted;
use super::gate::ponged;
use super::{Scene, count, to_f64};
use crate::bench::figure::{Figure, Target};
use crate::clock;

/// A fair unit has 12 passages a second.
const FLOOD_PASSAGES_PER_S: u32 = 1_200;
const FRAMES_PER_S: u32 = 4;
/// Frames that are made beforehand, so that making them costs nothing while it is measured.
const FRAMES: usize = 400;
/// Before measuring.
const WARM_UP: Duration = Duration::from_secs(10);

/// All frames at once, never waiting for a receipt: they are read to the last, and those beyond what
/// the centre takes from one unit are dropped.
pub(super) async fn burst(scene: &Scene) -> Result<Vec<Figure>> {
    let (system, device) = (&scene.system, &scene.stolen[6]);
    let thief = Thief::new(&system.pki, system.broker_address(), device)?;
    let frames = frames();
    let mut raw = thief.unit().await?;
    for (number, frame) in frames.iter().enumerate() {
        raw.publish(device, frame).await?;
        if number % 8 == 0 {
            while raw.packet_within(Duration::ZERO).await.is_some() {}
        }
    }
    raw.send(b"\xc0\0").await?;
    ensure!(ponged(&mut raw, WITHIN).await, "the gate reads no further");
    raw.slam();
    Ok(vec![count("burst.read", frames.len() as u64, "frames")])
}

/// Calm, a hundred times the fair rate, and as fast as the gate reads.
pub(super) async fn run(scene: &Scene, phase: Duration) -> Result<Vec<Figure>> {
    sleep(WARM_UP).await;
    let (calm_p50, calm_p99) = measured(scene, phase).await?;
    let (system, device) = (&scene.system, &scene.stolen[5]);
    let thief = Thief::new(&system.pki, system.broker_address(), device)?;
    let frames = frames();
    let before = Counted::of(system, &system.broker).await?;

    let pause = Duration::from_secs(1) / FRAMES_PER_S;
    let mut raw = thief.unit().await?;
    let (_, fair_p99) = beside(scene, phase, send(&mut raw, &thief, &frames, Some(pause))).await?;
    let (_, flat_p99) = beside(scene, phase, send(&mut raw, &thief, &frames, None)).await?;
    raw.slam();

    let after = Counted::of(system, &system.broker).await?;
    let throttled = "verst_broker_throttled_total";
    let throttled = after.one(throttled) - before.one(throttled);
    let dropped = Counted::of(system, &system.aggregator).await?;
    let dropped = dropped.one("verst_aggregator_frames_dropped_total{reason=\"device_frames\"}");
    let twice = Target::AtMost(2.0);
    Ok(vec![
        Figure::new("flood.calm_p50", calm_p50, "ms", Target::Any),
        Figure::new("flood.calm_p99", calm_p99, "ms", Target::Any),
        Figure::new("flood.hundredfold_p99", fair_p99, "ms", Target::Any),
        Figure::new(
            "flood.hundredfold",
            fair_p99 / calm_p99,
            "of the calm p99",
            twice,
        ),
        Figure::new("flood.flat_out_p99", flat_p99, "ms", Target::Any),
        Figure::new(
            "flood.flat_out",
            flat_p99 / calm_p99,
            "of the calm p99",
            twice,
        ),
        Figure::new("flood.throttled", throttled, "pauses", Target::AtLeast(1.0)),
        Figure::new("flood.dropped", dropped, "frames", Target::Any),
    ])
}

/// From post to receipt, of the honest units, over a phase.
async fn measured(scene: &Scene, phase: Duration) -> Result<(f64, f64)> {
    let before = scene.fleet.counters().receipt_times();
    sleep(phase).await;
    let times = scene.fleet.counters().receipt_times().since(&before);
    let quantile = |share| times.quantile_ms(share).map(to_f64).context("no receipts");
    Ok((quantile(0.5)?, quantile(0.99)?))
}

/// The same while something goes on.
async fn beside(
    scene: &Scene,
    phase: Duration,
    what: impl Future<Output = Result<()>>,
) -> Result<(f64, f64)> {
    let done = CancellationToken::new();
    let stop = done.clone();
    let going_on = async {
        tokio::select! {
            outcome = what => outcome,
            () = stop.cancelled() => Ok(()),
        }
    };
    let (outcome, measured) = tokio::join!(going_on, async {
        let measured = measured(scene, phase).await;
        done.cancel();
        measured
    });
    outcome?;
    measured
}

/// Sends without end; without a pause as fast as it is read.
async fn send(
    raw: &mut Raw,
    thief: &Thief,
    frames: &[Vec<u8>],
    pause: Option<Duration>,
) -> Result<()> {
    let mut next = Instant::now();
    for (number, frame) in frames.iter().cycle().enumerate() {
        raw.publish(&thief.device, frame).await?;
        // Whoever does not read is cut off: acknowledgements and receipts are thrown away.
        if number % 8 == 0 {
            while raw.packet_within(Duration::ZERO).await.is_some() {}
        }
        if let Some(pause) = pause {
            next += pause;
            sleep_until(next).await;
        }
    }
    Ok(())
}

/// True frames of one stream, one after the other.
fn frames() -> Vec<Vec<u8>> {
    let count = FLOOD_PASSAGES_PER_S / FRAMES_PER_S;
    let stream = StreamId::from_bytes(rand::random());
    let now_ms = clock::unix_ms();
    let passage = |n: u32| Passage {
        event_time: EventTime::from_millis(now_ms - i64::from(n)),
        ..Passage::default()
    };
    let batch: PassageBatch = (0..count).map(passage).collect();
    let message = Up::Passages(batch);
    let numbered = (0_u64..).take(FRAMES).filter_map(|number| {
        let first = Seq::new(number * u64::from(count) + 1).ok()?;
        let header = UpHeader {
            stream,
            first,
            count,
            accepted_to: (number + 1) * u64::from(count),
            frontier: Frontier {
                before: EventTime::from_millis(0),
                run: 1,
                counter: number + 1,
            },
            sent_at: EventTime::from_millis(now_ms),
        };
        Some(message.encode(&header))
    });
    numbered.collect()
}
