//! A run of passages on its way from the road to the message that holds it.

use bytes::Bytes;
use proto::{EventTime, PassageBatch, SeqRange};

/// A run of passages in one message.
#[derive(Debug)]
pub struct Batch {
    pub(super) range: SeqRange,
    pub(super) oldest: EventTime,
    pub(super) content: Content,
    /// When each was posted, by the unit's clock; empty where nobody asks.
    pub(super) posted_ms: Box<[i64]>,
    pub(super) offers: u32,
}

/// Before its first offer, and after.
#[derive(Debug)]
pub(super) enum Content {
    Passages(Box<PassageBatch>),
    Frame(Bytes),
}

impl Batch {
    /// A batch whose frame was made beforehand.
    #[must_use]
    pub fn from_frame(range: SeqRange, oldest: EventTime, frame: Bytes) -> Self {
        Self {
            range,
            oldest,
            content: Content::Frame(frame),
            posted_ms: Box::default(),
            offers: 0,
        }
    }
}

/// A batch as it is cut, for whoever recomputes.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    /// Numbers of its passages.
    pub range: SeqRange,
    /// The passages, in the order of their numbers.
    pub passages: &'a PassageBatch,
}

/// A batch that was offered and has no answer.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) batch: Batch,
    pub(super) offered_ms: i64,
    pub(super) bytes: usize,
}
