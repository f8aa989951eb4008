//! Lies to the centre: frames of a stolen unit that say what cannot be, in every field.
//!
//! Each must be refused with its reason, to that unit alone, or dropped and counted, or settled as
//! the unit's own affair (a passage of the year 9999 goes to its side table). Afterwards the API must
//! answer, and the honest units' windows must stand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proto::frame::{Down, Up};
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::{
    BODY_BYTES_MAX, EVENT_MS_MAX, EXTRA_BYTES_MAX, EXTRA_DEPTH_MAX, FRAME_BYTES_MAX, LOSSES_MAX,
    NEW_STREAMS_PER_DAY_MAX, SEQ_MAX, STREAM_PASSAGES_MAX, STREAMS_MAX, TEXT_BYTES_MAX,
};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::plate::{Plate, PlateText};
use proto::receipt::RefusalReason::{
    self, Cap, Horizon, Malformed, UnknownKind, UnknownVersion, Unstorable,
};
use proto::receipt::{Centre, Receipt, StreamReceipt};
use proto::summary::{Summary, SummaryEntry};
use proto::{CentreId, EventTime, Passage, PassageBatch, Seq, SeqRange, SeqSet, StreamId, window};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::client::{Raw, Thief, WITHIN};
use super::counted::Counted;
use super::{PLATE, Scene, count, to_f64};
use crate::bench::figure::{Figure, Target};
use crate::clock;

/// Between two looks at a counter.
const LOOK: Duration = Duration::from_millis(50);
/// One message in so many streams is a batch; the others are named in inventories.
const BATCHES_ONE_IN: u64 = 20;
/// Parts of a frame, as `proto::frame` lays it out.
const PASSAGES: u8 = 1;
const SUMMARY: u8 = 2;
const UNKNOWN: u8 = 99;
const HOUR_MS: i64 = 3_600_000;

/// What must become of a frame.
enum Fate {
    /// Refused with this reason.
    Refused(RefusalReason),
    /// Dropped, and counted as damaged.
    Dropped,
    /// Answered with a receipt: it is true, or the unit's own affair.
    Receipted,
    /// Taken without an answer.
    Taken,
}

/// A header that is true of `count` passages from 1 on.
fn header(stream: StreamId, count: u32, counter: u64) -> UpHeader {
    let now_ms = clock::unix_ms();
    UpHeader {
        stream,
        first: Seq::FIRST,
        count,
        accepted_to: u64::from(count),
        frontier: Frontier {
            before: EventTime::from_millis(now_ms - HOUR_MS),
            run: 1,
            counter,
        },
        sent_at: EventTime::from_millis(now_ms),
    }
}

/// A frame that says of itself that its header has so many bytes, with a good checksum.
fn with_header_of(mut frame: Vec<u8>, bytes: u8) -> Vec<u8> {
    frame[3] = bytes;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Ten passages with a plate, of which the last one says this besides.
fn with_extra(event_ms: i64, extra: &str) -> Result<Up> {
    let mut passages = batch(9, event_ms);
    passages.push(&Passage {
        event_time: EventTime::from_millis(event_ms),
        plate: Plate::Text(PlateText::new(PLATE)?),
        extra: (!extra.is_empty()).then(|| extra.into()),
        ..Passage::default()
    });
    Ok(Up::Passages(passages))
}

fn batch(passages: u32, event_ms: i64) -> PassageBatch {
    let passage = |n| Passage {
        event_time: EventTime::from_millis(event_ms.saturating_sub(i64::from(n)).max(0)),
        ..Passage::default()
    };
    (0..passages).map(passage).collect()
}

/// A frame with any parts and a good checksum.
fn forged(version: u8, kind: u8, codec: u8, header: &UpHeader, body: &[u8]) -> Result<Vec<u8>> {
    let sealed = Up::Passages(batch(1, 0)).encode(header);
    let header_bytes = usize::from(*sealed.get(3).context("a frame has a length")?);
    let header = sealed
        .get(8..8 + header_bytes)
        .context("a frame has a header")?;
    let prefix = [version, kind, codec, u8::try_from(header_bytes)?];
    let crc = crc32c::crc32c(&prefix);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, header), body);
    Ok([&prefix[..], &crc.to_le_bytes(), header, body].concat())
}

fn heartbeat(held: Vec<HeldStream>) -> Heartbeat {
    Heartbeat {
        held,
        backlog: Backlog {
            passages: u64::MAX,
            bytes: u64::MAX,
            oldest: Some(EventTime::from_millis(i64::MIN)),
            newest: Some(EventTime::from_millis(i64::MAX)),
            drain_per_min: Some(i64::MIN),
        },
        camera: CameraLink::LastPostAt(EventTime::from_millis(EVENT_MS_MAX)),
        clock_offset_ms: Some(i64::MIN),
        agent_version: "0.1.0'; DROP TABLE device; --".to_owned(),
        disk: Disk {
            used_bytes: u64::MAX,
            quota_bytes: u64::MAX,
            free_bytes: u64::MAX,
        },
    }
}

fn held(stream: StreamId, accepted_to: u64) -> HeldStream {
    HeldStream {
        stream,
        accepted_to,
        released: SeqSet::new(),
        held: SeqSet::new(),
    }
}

fn all_lost(count: u64) -> Result<Losses> {
    let loss = Loss {
        range: SeqRange::from_count(Seq::FIRST, count)?,
        scope: LossScope::All,
        reason: LossReason::Operator,
        event_min: Some(EventTime::from_millis(i64::MIN)),
        event_max: Some(EventTime::from_millis(i64::MAX)),
    };
    Ok(Losses { losses: vec![loss] })
}

/// Every lie, and what must become of it.
#[expect(
    clippy::too_many_lines,
    reason = "one entry for each lie, in one table"
)]
fn lies(dice: &mut ChaCha8Rng, foreign: StreamId) -> Result<Vec<(&'static str, Vec<u8>, Fate)>> {
    use Fate::{Dropped, Receipted, Refused, Taken};
    let mut counter = 0;
    let mut fresh = |count: u32| {
        counter += 1;
        header(StreamId::from_bytes(dice.random()), count, counter)
    };
    let now_ms = clock::unix_ms();
    let ten = Up::Passages(batch(10, now_ms));
    let mut lies = Vec::new();
    let mut lie = |what, bytes, fate| lies.push((what, bytes, fate));

    for count in [0, 9, 11, 4_097, u32::MAX] {
        let header = UpHeader {
            accepted_to: SEQ_MAX,
            ..fresh(count)
        };
        lie(
            "a count that is not the body's",
            ten.encode(&header),
            Refused(Malformed),
        );
    }
    let top = Seq::new(SEQ_MAX - 3)?;
    let header = UpHeader {
        first: top,
        accepted_to: u64::MAX,
        ..fresh(10)
    };
    lie(
        "numbers beyond 2^63",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: 9,
        ..fresh(10)
    };
    lie(
        "more than was accepted",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: u64::MAX,
        ..fresh(10)
    };
    lie(
        "a stream without end",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: STREAM_PASSAGES_MAX + 1,
        ..fresh(10)
    };
    lie("a stream too long", ten.encode(&header), Refused(Malformed));

    let bomb = zstd::bulk::compress(&vec![0; 64 * BODY_BYTES_MAX], 3)?;
    let bytes = forged(1, PASSAGES, 1, &fresh(500), &bomb)?;
    lie("a decompression bomb", bytes, Refused(Malformed));
    let garbage: Vec<u8> = (0..500_u32).map(|n| n.to_le_bytes()[0]).collect();
    for (kind, codec) in [(PASSAGES, 0), (PASSAGES, 1), (SUMMARY, 0), (3, 0), (4, 0)] {
        let bytes = forged(1, kind, codec, &fresh(5), &garbage)?;
        lie("garbage in a good envelope", bytes, Refused(Malformed));
    }
    lie(
        "version 2",
        forged(2, PASSAGES, 0, &fresh(5), &garbage)?,
        Refused(UnknownVersion),
    );
    lie(
        "an unknown kind",
        forged(1, UNKNOWN, 0, &fresh(5), &garbage)?,
        Refused(UnknownKind),
    );
    lie(
        "an unknown codec",
        forged(1, PASSAGES, 9, &fresh(5), &garbage)?,
        Refused(UnknownKind),
    );

    let mut flipped = ten.encode(&fresh(10));
    *flipped.last_mut().context("a frame")? ^= 1;
    lie("a wrong checksum", flipped, Dropped);
    lie("nothing", Vec::new(), Dropped);
    lie(
        "noise",
        (0..200_u32).map(|n| (n * 7).to_le_bytes()[0]).collect(),
        Dropped,
    );
    lie(
        "a frame above the limit",
        vec![1; FRAME_BYTES_MAX + 1],
        Dropped,
    );
    let everything: SeqSet = SeqRange::from_count(Seq::FIRST, SEQ_MAX)?.into();
    let receipt = Down::Receipt(Receipt {
        centre: Centre {
            id: CentreId::from_bytes([7; 16]),
            timeline: u32::MAX,
        },
        streams: vec![StreamReceipt {
            stream: foreign,
            counted: everything.clone(),
            stored: everything,
            lost: SeqSet::new(),
            afresh: true,
        }],
        correction: None,
    });
    lie("a receipt", receipt.encode(), Dropped);

    let sealed = ten.encode(&fresh(10));
    for bytes in [0, 1, 254, 255] {
        lie(
            "a header of another length",
            with_header_of(sealed.clone(), bytes),
            Dropped,
        );
    }
    let deep = EXTRA_DEPTH_MAX + 1;
    for extra in [
        "{\"a\":\"\\u0000\"}".to_owned(),
        "{\"a\":\"\\ud800\"}".to_owned(),
        "{\"a\":1e999}".to_owned(),
        "{\"a\":NaN}".to_owned(),
        "[1]".to_owned(),
        "{\"a\":1} {}".to_owned(),
        "'; DROP TABLE device; --".to_owned(),
        format!("{{\"a\":{}{}}}", "[".repeat(deep), "]".repeat(deep)),
        format!("{{\"a\":\"{}\"}}", "x".repeat(EXTRA_BYTES_MAX)),
    ] {
        let bytes = with_extra(now_ms, &extra)?.encode(&fresh(10));
        lie("fields that JSONB cannot hold", bytes, Refused(Unstorable));
    }
    let quotes = "{\"a'; DROP TABLE device; --\":\"\\\\copy $1 \\\\.\\u202e\"}";
    let bytes = with_extra(now_ms, quotes)?.encode(&fresh(10));
    lie("fields with SQL in them", bytes, Receipted);

    for event_ms in [0, EVENT_MS_MAX] {
        let bytes = with_extra(event_ms, "")?.encode(&fresh(10));
        lie("passages of 1970 and of 9999", bytes, Receipted);
    }
    for ms in [i64::MIN, i64::MAX] {
        let time = EventTime::from_millis(ms);
        let mut header = UpHeader {
            sent_at: time,
            ..fresh(10)
        };
        header.frontier.before = time;
        lie("clocks at the ends of time", ten.encode(&header), Receipted);
    }
    let header = UpHeader {
        stream: foreign,
        ..fresh(10)
    };
    lie("the stream of another unit", ten.encode(&header), Receipted);

    let summary = |seqs: SeqSet, deltas| {
        Up::Summary(Summary {
            entries: vec![SummaryEntry { seqs, deltas }],
        })
    };
    let ten_seqs = || SeqRange::from_count(Seq::FIRST, 10).map(SeqSet::from);
    let deltas = window::fold(&batch(9, now_ms), |_| true);
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie(
        "a summary that counts fewer than it stands for",
        bytes,
        Refused(Malformed),
    );
    let all = || SeqRange::from_count(Seq::FIRST, SEQ_MAX).map(SeqSet::from);
    let deltas = window::fold(&batch(10, now_ms), |_| true);
    let bytes = summary(all()?, deltas.clone()).encode(&UpHeader {
        accepted_to: STREAM_PASSAGES_MAX,
        ..fresh(10)
    });
    lie("a summary of 2^63 passages", bytes, Refused(Malformed));
    let twice = [deltas.clone(), deltas.clone()].concat();
    let twenty = SeqRange::from_count(Seq::FIRST, 20)?.into();
    let bytes = summary(twenty, twice).encode(&fresh(20));
    lie("a summary with a window twice", bytes, Refused(Malformed));
    let entry = SummaryEntry {
        seqs: ten_seqs()?,
        deltas: deltas.clone(),
    };
    let entries = vec![entry.clone(), entry];
    let bytes = Up::Summary(Summary { entries }).encode(&fresh(20));
    lie("a summary that counts twice", bytes, Refused(Malformed));
    let entries = Vec::new();
    let bytes = Up::Summary(Summary { entries }).encode(&fresh(0));
    lie("a summary of nothing", bytes, Refused(Malformed));
    let mut deltas = deltas;
    for delta in &mut deltas {
        delta.stats.n_speed = u32::MAX;
    }
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie(
        "a summary with more speeds than passages",
        bytes,
        Refused(Malformed),
    );
    let deltas = window::fold(&batch(10, EVENT_MS_MAX), |_| true);
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie("a summary of the year 9999", bytes, Refused(Horizon));
    let mut deltas = window::fold(&batch(10, now_ms), |_| true);
    for delta in &mut deltas {
        delta.stats.sum_ckmh = u64::MAX;
    }
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie("a summary whose sums cannot be", bytes, Refused(Malformed));

    let header = UpHeader {
        accepted_to: 10,
        ..fresh(10)
    };
    let bytes = Up::Loss(all_lost(1 << 39)?).encode(&header);
    lie(
        "losses of what was never accepted",
        bytes,
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: STREAM_PASSAGES_MAX,
        ..fresh(10)
    };
    let bytes = Up::Loss(all_lost(STREAM_PASSAGES_MAX)?).encode(&header);
    lie("all that a stream can hold is lost", bytes, Receipted);

    let bytes = Up::Loss(all_lost(SEQ_MAX)?).encode(&header);
    lie("losses up to 2^63", bytes, Refused(Malformed));
    let one = all_lost(1)?.losses;
    for losses in [Vec::new(), one.repeat(LOSSES_MAX + 1)] {
        let bytes = Up::Loss(Losses { losses }).encode(&fresh(10));
        lie("no losses, and too many", bytes, Refused(Malformed));
    }

    let streams = |count: usize| (0..count).map(|n| held(foreign, n as u64)).collect();
    let bytes = Up::Heartbeat(heartbeat(streams(STREAMS_MAX + 1))).encode(&fresh(0));
    lie("an inventory too long", bytes, Refused(Malformed));
    let bytes = Up::Heartbeat(heartbeat(vec![held(foreign, u64::MAX)])).encode(&fresh(0));
    lie(
        "an inventory of a stream too long",
        bytes,
        Refused(Malformed),
    );
    let more_held = HeldStream {
        held: all()?,
        ..held(foreign, 5)
    };
    let bytes = Up::Heartbeat(heartbeat(vec![more_held])).encode(&fresh(0));
    lie("more held than accepted", bytes, Refused(Malformed));
    for version in ["x".repeat(TEXT_BYTES_MAX + 1), "\0".to_owned()] {
        let mut said = heartbeat(Vec::new());
        said.agent_version = version;
        let bytes = Up::Heartbeat(said).encode(&fresh(0));
        lie("a version that is none", bytes, Refused(Malformed));
    }
    let more_released = HeldStream {
        released: all()?,
        ..held(foreign, 5)
    };
    let bytes = Up::Heartbeat(heartbeat(vec![more_released])).encode(&fresh(0));
    lie("receipts of what was never accepted", bytes, Taken);
    let bytes = Up::Heartbeat(heartbeat(vec![held(foreign, 5)])).encode(&fresh(0));
    lie("a heartbeat with the ends of all numbers", bytes, Taken);
    let mut last = fresh(10);
    (last.frontier.run, last.frontier.counter) = (u32::MAX, u64::MAX);
    lie(
        "the last word on completeness",
        ten.encode(&last),
        Receipted,
    );
    Ok(lies)
}

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
    figures.extend(streams(scene).await?);
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

/// One unit that names ever new streams: most in inventories, some with a passage in each.
async fn streams(scene: &Scene) -> Result<Vec<Figure>> {
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
