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

/// Frames decoded in one go.
const CHUNK_FRAMES: usize = 64;

/// Chunks of messages between the threads and the owner. Beyond, the threads wait.
pub const QUEUE_CHUNKS_MAX: usize = 4_096;

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
            let more = self.frames.try_iter().take(CHUNK_FRAMES - 1);
            let chunk: Vec<Message> = std::iter::once(first)
                .chain(more)
                .filter_map(|frame| self.decode(frame))
                .collect();
            if !chunk.is_empty() && self.messages.send(chunk).is_err() {
                return;
            }
        }
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
