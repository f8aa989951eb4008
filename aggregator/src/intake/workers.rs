//! Threads that decode, so that no async task ever waits for a decompression.
//!
//! Frames are taken many at a time: a short linger while few are there saves a wake-up for each.
//! Decoding goes on while a flush is committed; the queue to the owner is bounded, and when it is
//! full the threads wait, then the door drops.

use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};
use service::tasks::TaskSet;

use super::admit::{Dropped, Frame};
use super::decode::{Message, decode};
use crate::metrics::Metrics;

/// How long a thread waits for more frames before it begins with few.
const LINGER: Duration = Duration::from_millis(10);

/// Frames decoded in one go, at most.
const CHUNK_FRAMES: usize = 64;

/// A chunk that takes so much memory is handed over, whatever waits.
const CHUNK_BYTES: usize = 2 << 20;

/// Chunks of messages between the threads and the owner. Rows take ten times the memory of their
/// frames, so few chunks wait, and beyond these the threads do.
pub const QUEUE_CHUNKS_MAX: usize = 32;

/// Starts `threads` of them. They end when every sender of frames is gone. `stop` ends the linger: a
/// channel without messages whose sender is dropped at the stop.
pub fn start(
    tasks: &TaskSet,
    threads: usize,
    raw: bool,
    frames: &Receiver<Frame>,
    messages: &Sender<Vec<Message>>,
    stop: &Receiver<()>,
    metrics: &Metrics,
) {
    for _ in 0..threads {
        let worker = Worker {
            frames: frames.clone(),
            messages: messages.clone(),
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
        for frame in std::iter::once(first).chain(self.frames.try_iter()) {
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
