//! One unit that names ever new streams.

use std::time::Duration;

use anyhow::Result;
use proto::StreamId;
use proto::frame::{Down, Up};
use proto::limits::{NEW_STREAMS_PER_DAY_MAX, STREAMS_MAX};
use proto::receipt::RefusalReason::Cap;
use rand::RngExt as _;

use super::super::client::{Raw, Thief};
use super::super::counted::Counted;
use super::super::{Scene, count, to_f64};
use super::forge::{batch, header, heartbeat, held};
use crate::bench::figure::{Figure, Target};
use crate::clock;

/// One message in so many streams is a batch; the others are named in inventories.
const BATCHES_ONE_IN: u64 = 20;

/// Names them: most in inventories, some with a passage in each.
pub(super) async fn streams(scene: &Scene) -> Result<Vec<Figure>> {
    let (system, device) = (&scene.system, &scene.stolen[4]);
    let thief = Thief::new(&system.pki, system.broker_address(), device)?;
    let mut raw = thief.unit().await?;
    let mut dice = scene.dice(3);
    let batches = scene.scale.streams / BATCHES_ONE_IN;
    let inventories = (scene.scale.streams - batches).div_ceil(STREAMS_MAX as u64);
    for number in 0..inventories {
        let named: Vec<_> = (0..STREAMS_MAX)
            .map(|_| held(StreamId::from_bytes(dice.random()), 1))
            .collect();
        let header = header(StreamId::from_bytes(dice.random()), 0, number + 1);
        let frame = Up::Heartbeat(heartbeat(named)).encode(&header);
        raw.publish(device, &frame).await?;
    }
    let one = Up::Passages(batch(1, clock::unix_ms()));
    let (mut caps, mut receipts) = (0_u64, 0_u64);
    for number in 0..batches {
        let mut header = header(
            StreamId::from_bytes(dice.random()),
            1,
            inventories + number + 1,
        );
        // A second passage that never comes: none of the streams is ever finished.
        header.accepted_to = 2;
        raw.publish(device, &one.encode(&header)).await?;
        // Until the cap is reached each must come through the door, which takes 32 at a time; then
        // they come as fast as the gate reads.
        let (round, silence) = match caps {
            0 => (16, Duration::from_secs(2)),
            _ => (64, Duration::from_millis(20)),
        };
        if number % round == round - 1 {
            hear(&mut raw, silence, &mut caps, &mut receipts).await;
        }
    }
    hear(&mut raw, Duration::from_secs(5), &mut caps, &mut receipts).await;
    raw.slam();
    let database = system.database().await?;
    let kept = database
        .client()
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE NOT settled) FROM stream_cursor c \
             JOIN device d USING (device_key) WHERE d.device = $1",
            &[&device.as_str()],
        )
        .await?;
    let (kept, open): (i64, i64) = (kept.get(0), kept.get(1));
    let counted = Counted::of(system, &system.aggregator).await?;
    let dropped = counted.one("verst_aggregator_frames_dropped_total{reason=\"device_frames\"}");
    let most = |limit: usize| Target::AtMost(to_f64(limit as u64));
    let (kept, open) = (kept.unsigned_abs(), open.unsigned_abs());
    Ok(vec![
        count("streams.named", scene.scale.streams, "streams"),
        count("streams.receipted", receipts, "frames"),
        Figure::new(
            "streams.refused_as_cap",
            to_f64(caps),
            "frames",
            Target::AtLeast(1.0),
        ),
        Figure::new("streams.frames_dropped", dropped, "frames", Target::Any),
        Figure::new(
            "streams.kept",
            to_f64(kept),
            "streams",
            most(NEW_STREAMS_PER_DAY_MAX),
        ),
        Figure::new(
            "streams.unfinished",
            to_f64(open),
            "streams",
            most(STREAMS_MAX),
        ),
    ])
}

/// Takes what the centre says until it is silent for so long.
async fn hear(raw: &mut Raw, silence: Duration, caps: &mut u64, receipts: &mut u64) {
    while let Some(down) = raw.heard(silence).await {
        match down {
            Down::Refusal(refusal) if refusal.reason == Cap => *caps += 1,
            Down::Receipt(_) => *receipts += 1,
            _ => {}
        }
    }
}
