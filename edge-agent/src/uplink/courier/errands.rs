//! What the courier wants done, and what comes of it.

use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use proto::receipt::RefusalReason;
use proto::{EventTime, SeqRange, SeqSet, StreamId};

use crate::buffer::{CentreVerdict, Folded, PendingSummary, ReadError, StoreStopped, StoredRun};
use crate::uplink::flight::MessageId;

/// A question to the buffer.
pub type Question = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What is to be done.
pub enum Errand {
    /// Make a fresh link. Ends in [`Input::Subscribed`] or [`Input::Lost`].
    ///
    /// [`Input::Subscribed`]: crate::uplink::exchange::Input::Subscribed
    /// [`Input::Lost`]: crate::uplink::exchange::Input::Lost
    Connect,
    /// Await this, then say [`super::Courier::answered`].
    Ask(Question),
    /// Hand a frame to the link, then say [`super::Courier::handed`].
    Hand {
        /// The frame.
        frame: Vec<u8>,
        /// What it is.
        letter: Letter,
    },
    /// Say [`super::Courier::heartbeat`].
    Heartbeat,
    /// The centre stated its time.
    CentreTime(EventTime),
    /// By the centre's clock it is this, and by the unit's something else; or it sees no difference.
    Corrected(Option<EventTime>),
}

impl Debug for Errand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("Connect"),
            Self::Ask(_) => f.write_str("Ask"),
            Self::Hand { frame, letter } => write!(f, "Hand({} bytes, {letter:?})", frame.len()),
            Self::Heartbeat => f.write_str("Heartbeat"),
            Self::CentreTime(at) => write!(f, "CentreTime({at:?})"),
            Self::Corrected(told) => write!(f, "Corrected({told:?})"),
        }
    }
}

/// What a frame is.
#[derive(Debug)]
pub enum Letter {
    /// Passages; the frame is kept until the link has taken it.
    Message(MessageId),
    /// Summaries.
    Summary {
        /// Their stream.
        stream: StreamId,
        /// The range in the header.
        claimed: SeqRange,
        /// What they stand for.
        seqs: SeqSet,
        /// How many they are.
        entries: usize,
    },
    /// Something that is said again anyway.
    Word(&'static str),
}

/// What the buffer answered.
pub enum Answer {
    /// To a read.
    Read {
        /// For which message.
        id: MessageId,
        /// Which stream.
        stream: StreamId,
        /// What was asked for.
        range: SeqRange,
        /// What came.
        run: Box<Result<Option<StoredRun>, ReadError>>,
    },
    /// To a question for summaries.
    Summary {
        /// Which stream.
        stream: StreamId,
        /// The oldest of them.
        entries: Result<Vec<PendingSummary>, StoreStopped>,
    },
    /// To the wish to fold.
    Folded(Result<Folded, StoreStopped>),
    /// To a receipt.
    Receipt(Result<CentreVerdict, StoreStopped>),
    /// To a refusal of passages.
    Refused {
        /// Which stream.
        stream: StreamId,
        /// Why.
        reason: RefusalReason,
        /// How many were moved aside.
        moved: Result<u64, StoreStopped>,
    },
    /// To a refusal of a summary.
    SummaryRefused {
        /// Which stream.
        stream: StreamId,
        /// Why.
        reason: RefusalReason,
        /// Passages of it that are gone.
        lost: Result<u64, StoreStopped>,
    },
    /// To the wish to offer again what was moved aside.
    OfferedAgain {
        /// To which build of the centre.
        build: Arc<str>,
        /// How many were put back into line.
        passages: Result<u64, StoreStopped>,
    },
}
