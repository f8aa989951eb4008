//! Batches made before the clock starts: real traffic, real frames, real headers.

use std::thread;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::{DeviceId, EventTime, Passage, PassageBatch, Seq, SeqRange};

use crate::clock;
use crate::fleet::new_stream;
use crate::fleet::traffic::{Road, Traffic};
use crate::fleet::unit::{Batch, Habits, Plates, Unit};

/// Passages in a prepared batch.
pub const BATCH_PASSAGES: usize = 500;
/// The newest prepared passage is at least so old, so that no clock disputes it.
const NEWEST_AGE_MS: i64 = 60_000;
/// Random headways may take so much longer than their mean, in per cent.
const SLACK_PERCENT: i64 = 30;

/// What to prepare.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Batches for each unit.
    pub batches: usize,
    /// The flow before each unit; it decides over how many windows the batches spread.
    pub passages_per_s: f64,
    /// What happened to plates.
    pub plates: Plates,
    /// Of the traffic.
    pub seed: u64,
}

/// Units with everything that they will ever send.
#[derive(Debug)]
pub struct Load {
    /// For [`crate::fleet::Fleet::start_prepared`].
    pub units: Vec<(DeviceId, Unit)>,
    /// Passages of all units.
    pub passages: u64,
    /// Some of the frames, to measure what decoding them costs.
    pub sample: Vec<Bytes>,
}

/// Makes the batches, on all cores.
///
/// # Errors
/// A thread failed.
pub fn prepare(devices: &[DeviceId], recipe: Recipe) -> Result<Load> {
    let now_ms = clock::unix_ms();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let per_thread = devices.len().div_ceil(threads).max(1);
    let parts: Vec<_> = thread::scope(|scope| {
        let parts = devices
            .chunks(per_thread)
            .enumerate()
            .map(|(part, devices)| {
                scope.spawn(move || {
                    let first = part * per_thread;
                    let units = devices.iter().enumerate();
                    units
                        .map(|(place, device)| unit(device, first + place, recipe, now_ms))
                        .collect()
                })
            });
        let parts: Vec<_> = parts.collect();
        parts
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut load = Load {
        units: Vec::new(),
        passages: 0,
        sample: Vec::new(),
    };
    for part in parts {
        let units: Vec<Prepared> = part.map_err(|_| anyhow!("a preparing thread panicked"))?;
        for prepared in units {
            load.passages += prepared.unit.counts().posted;
            load.sample.extend(prepared.first_frame);
            load.units.push((prepared.device, prepared.unit));
        }
    }
    Ok(load)
}

/// One unit with everything that it will ever send.
#[derive(Debug)]
pub struct Prepared {
    /// Its name.
    pub device: DeviceId,
    /// Its batches.
    pub unit: Unit,
    /// The frame of the first of them.
    pub first_frame: Option<Bytes>,
}

fn unit(device: &DeviceId, number: usize, recipe: Recipe, now_ms: i64) -> Prepared {
    let seed = recipe
        .seed
        .wrapping_mul(1_000_003)
        .wrapping_add(number as u64);
    let total = recipe.batches * BATCH_PASSAGES;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "some hours in milliseconds"
    )]
    let span_ms = (total as f64 / recipe.passages_per_s * 1_000.0) as i64;
    let start_ms = now_ms - NEWEST_AGE_MS - span_ms - span_ms * SLACK_PERCENT / 100;
    let start = EventTime::from_millis(start_ms);
    let mut traffic = Traffic::new(Road::motorway(recipe.passages_per_s), seed, start);
    let passages = (0..total).map(|_| {
        let mut passage = traffic.next_passage();
        passage.plate = recipe.plates.keep(passage.plate, recipe.seed);
        passage
    });
    of_passages(device, start, passages, total, seed)
}

/// A unit that will send these passages, so many, none of them before `start`.
pub fn of_passages(
    device: &DeviceId,
    start: EventTime,
    passages: impl Iterator<Item = Passage>,
    total: usize,
    seed: u64,
) -> Prepared {
    let mut all = passages.peekable();
    let now_ms = clock::unix_ms();
    let stream = new_stream();
    let accepted_to = total as u64;
    let mut batches = Vec::with_capacity(total.div_ceil(BATCH_PASSAGES));
    let mut first_frame = None;
    let mut first = Seq::FIRST;
    let mut counter = 0;
    while all.peek().is_some() {
        counter += 1;
        let mut passages = PassageBatch::new();
        for passage in all.by_ref().take(BATCH_PASSAGES) {
            passages.push(&passage);
        }
        let oldest = passages.event_span().map_or(start, |(oldest, _)| oldest);
        let header = UpHeader {
            stream,
            first,
            count: u32::try_from(passages.len()).unwrap_or(u32::MAX),
            accepted_to,
            // Nothing has a receipt when the frames are made.
            frontier: Frontier {
                before: start,
                run: 1,
                counter,
            },
            sent_at: EventTime::from_millis(now_ms),
        };
        let Some(range) = header.range() else { break };
        let frame = Bytes::from(Up::Passages(passages).encode(&header));
        first_frame.get_or_insert_with(|| frame.clone());
        batches.push(Batch::from_frame(range, oldest, frame));
        first = next_after(range);
    }
    let habits = Habits {
        linger_ms: 0,
        batch_passages: BATCH_PASSAGES,
        backlog_passages_max: u64::MAX,
        camera_delay_max_ms: 0,
        // Applied to the passages already.
        plates: Plates::Kept,
        seed,
    };
    Prepared {
        device: device.clone(),
        unit: Unit::prepared(stream, habits, batches),
        first_frame,
    }
}

fn next_after(range: SeqRange) -> Seq {
    range.last().next().unwrap_or(range.last())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::frame::UpFrame;
    use proto::window;

    use super::*;
    use crate::fleet::names;

    #[test]
    fn prepared_frames_are_what_an_agent_would_send() {
        let devices = names("t", 3).unwrap();
        let recipe = Recipe {
            batches: 4,
            passages_per_s: 12.0,
            plates: Plates::Hashed,
            seed: 1,
        };
        let load = prepare(&devices, recipe).unwrap();
        assert_eq!(load.passages, 3 * 4 * 500);
        assert_eq!(load.units.len(), 3);
        assert_eq!(load.sample.len(), 3);
        let mut windows = BTreeSet::new();
        for frame in &load.sample {
            let frame = UpFrame::open(frame).unwrap();
            assert_eq!(frame.header.range().unwrap().count(), 500);
            let Up::Passages(batch) = frame.message().unwrap() else {
                panic!("no passages")
            };
            assert!(frame.header.frontier.before <= batch.event_time(0));
            assert!(batch.event_time(499).as_millis() < clock::unix_ms());
            windows.extend(
                window::fold(&batch, |_| true)
                    .iter()
                    .map(|delta| delta.bucket),
            );
        }
        assert!(!windows.is_empty());
    }
}
