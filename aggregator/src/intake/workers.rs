//! Threads that decode, so that no async task ever waits for a decompression.
//!
//! Frames are taken many at a time: a short linger while few are there saves a wake-up for each.
//! Decoding goes on while a flush is committed; the queues to the owner are bounded, and when one is
//! full the threads of its lane wait, then the door drops.

use std::iter;
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};
use service::tasks::TaskSet;

use super::admit::{Dropped, Frame};
use super::decode::{Message, decode};
use super::lane::{Lane, Lanes};
use crate::metrics::Metrics;

/// How long a thread waits for more frames before it begins with few.
const LINGER: Duration = Duration::from_millis(10);

/// Frames decoded in one go, at most.
const CHUNK_FRAMES: usize = 64;

/// A chunk that takes so much memory is handed over, whatever waits.
pub const CHUNK_BYTES: usize = 2 << 20;

/// Chunks of messages between the threads and the owner. Rows take ten times the memory of their
/// frames, so few chunks wait, and beyond these the threads do.
pub const QUEUE_CHUNKS_MAX: usize = 32;

/// Starts `threads` of them for the backlog, and one for what is live. They end when every sender of frames is gone. `stop` ends the linger: a
/// channel without messages whose sender is dropped at the stop.
pub fn start(
    tasks: &TaskSet,
    threads: usize,
    raw: bool,
    frames: &Lanes<Receiver<Frame>>,
    messages: &Lanes<Sender<Vec<Message>>>,
    stop: &Receiver<()>,
    metrics: &Metrics,
) {
    for lane in iter::once(Lane::Live).chain(iter::repeat_n(Lane::Backlog, threads)) {
        let worker = Worker {
            frames: frames.of(lane).clone(),
            messages: messages.of(lane).clone(),
            stop: stop.clone(),
            metrics: metrics.clone(),
            raw,
        };
        tasks.spawn_blocking_thread("decode", move || worker.run());
    }
}

struct Worker {
    frames: Receiver<Frame>,
    messages: Sender<Vec<Message>>,
    stop: Receiver<()>,
    metrics: Metrics,
    raw: bool,
}

impl Worker {
    fn run(self) {
        while let Ok(first) = self.frames.recv() {
            if self.frames.len() < CHUNK_FRAMES {
                self.linger();
            }
            let chunk = self.chunk(first);
            if !chunk.is_empty() && self.messages.send(chunk).is_err() {
                return;
            }
        }
    }

    fn chunk(&self, first: Frame) -> Vec<Message> {
        let (mut chunk, mut bytes) = (Vec::with_capacity(CHUNK_FRAMES), 0);
        for frame in iter::once(first).chain(self.frames.try_iter()) {
            let Some(message) = self.decode(frame) else {
                continue;
            };
            bytes += message.memory_bytes();
            chunk.push(message);
            if chunk.len() == CHUNK_FRAMES || bytes >= CHUNK_BYTES {
                break;
            }
        }
        chunk
    }

    fn linger(&self) {
        match self.stop.recv_timeout(LINGER) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn decode(&self, frame: Frame) -> Option<Message> {
        match decode(frame, self.raw) {
            Ok(message) => {
                self.metrics.passages_received.inc_by(message.passages());
                Some(message)
            }
            Err(error) => {
                tracing::debug!(%error, "frame dropped");
                self.metrics.dropped(Dropped::Damaged);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use proto::device::DeviceId;
    use proto::frame::Up;
    use proto::limits::IN_FLIGHT_BYTES_MAX;
    use tokio_util::sync::CancellationToken;

    use super::super::admit::{Door, DoorLimits};
    use super::super::lane;
    use super::*;
    use crate::testing::{header, passage};

    #[test]
    fn a_chunk_has_so_many_frames_or_so_much_memory_and_the_rest_is_the_next() {
        let (frames_in, frames) = flume::bounded(1_000);
        let worker = Worker {
            frames: frames.clone(),
            messages: flume::bounded(1).0,
            stop: flume::bounded(0).1,
            metrics: Metrics::register(&mut Registry::default()),
            raw: true,
        };
        let mut door = Door::new(DoorLimits {
            bytes_max: 1 << 30,
            device_frames_max: 1_000,
            devices_max: 1,
        });
        let topic = proto::topic::up(&DeviceId::new("KV1").unwrap());
        let mut sizes = |count: usize, passages: u32| {
            let up = Up::Passages(
                (0..passages)
                    .map(|n| passage(i64::from(n), 5_000))
                    .collect(),
            );
            let bytes = up.encode(&header(1, 1, passages, 5_000));
            for _ in 0..count {
                let frame = door.admit(&topic, bytes.clone().into()).unwrap();
                frames_in.send(frame).unwrap();
            }
            let chunks = std::iter::from_fn(|| Some(worker.chunk(frames.try_recv().ok()?)));
            chunks.map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(100, 1), [CHUNK_FRAMES, 36]);
        let large = sizes(60, 4_000);
        assert!(large.len() > 1 && large[0] < CHUNK_FRAMES, "{large:?}");
        assert_eq!(large.iter().sum::<usize>(), 60);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn live_messages_pass_a_backlog_that_nobody_takes() {
        let tasks = TaskSet::new(CancellationToken::new());
        let (frames_in, frames) = lane::channels(1_000);
        let (messages_in, messages) = lane::channels(1);
        let (stop_in, stop) = flume::bounded(0);
        let metrics = Metrics::register(&mut Registry::default());
        start(&tasks, 2, true, &frames, &messages_in, &stop, &metrics);
        let mut door = Door::new(DoorLimits {
            bytes_max: 1 << 30,
            device_frames_max: 1_000,
            devices_max: 2,
        });
        let mut arrive = |device: &str, bytes: Vec<u8>| {
            let topic = proto::topic::up(&DeviceId::new(device).unwrap());
            let frame = door.admit(&topic, bytes.into()).unwrap();
            let lane = frame.place.lane();
            frames_in.of(lane).try_send(frame).unwrap();
            lane
        };
        let batch = |count: u32| {
            let passages = (0..count).map(|n| passage(i64::from(n * n), 5_000));
            Up::Passages(passages.collect()).encode(&header(1, 1, count, 5_000))
        };
        let mut arrived = 0;
        while arrived < 2 * IN_FLIGHT_BYTES_MAX {
            let bytes = batch(500);
            arrived += bytes.len();
            arrive("LATE", bytes);
        }
        while !messages.backlog.is_full() {
            tokio::task::yield_now().await;
        }
        assert_eq!(arrive("LIVE", batch(3)), Lane::Live);
        let is_live = |chunk: Vec<Message>| {
            let mut devices = chunk.iter().map(|one| one.sender().device.as_str());
            devices.any(|device| device == "LIVE")
        };
        while !is_live(messages.live.recv_async().await.unwrap()) {}
        assert!(messages.backlog.is_full());
        drop((frames_in, messages, stop_in));
    }
}
