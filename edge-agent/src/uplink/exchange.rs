//! What passes between the uplink's machine and its shell. Pure.

use std::sync::Arc;

use proto::EventTime;
use proto::loss::Loss;
use proto::receipt::{Beacon, Centre, Correction, Receipt, Refusal, RefusalReason, StreamReceipt};
use proto::{SeqRange, SeqSet, StreamId};

use super::allowance::Allowed;
use super::backoff::{Backoff, Millis};
use super::flight::MessageId;
use super::folding::Backlog;
use crate::buffer::{BufferState, Folded};

/// How the machine paces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Passages in one message, at most.
    pub batch_passages: u64,
    /// How long a passage waits for company before a message leaves with less.
    pub event_wait_ms: Millis,
    /// From one heartbeat to the next.
    pub heartbeat_ms: Millis,
    /// From a lost link to the next attempt.
    pub reconnect: Backoff,
    /// From one probe of a closed intake to the next, and how long a refused stream waits.
    pub probe: Backoff,
    /// How long an answer may take: the least, and the longest between two sendings.
    pub resend: Backoff,
    /// Within which a reopened intake is entered.
    pub open_jitter_ms: Millis,
    /// Percent of the link that the backlog has even while live passages could fill it, 1 to 90.
    pub backlog_share_percent: u64,
    /// Bytes a second that may be sent, headers included; any, without.
    pub rate_bytes_per_s_max: Option<u64>,
    /// A backlog that is older goes ahead as summaries; 0: never.
    pub summary_after_ms: Millis,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The buffer committed something.
    Buffer(Arc<BufferState>),
    /// The link's subscriptions stand.
    Subscribed,
    /// The link is gone, or did not come about.
    Lost,
    /// The broker acknowledged a frame: the link takes more. It means nothing else.
    Acknowledged {
        /// Bytes of the frame.
        bytes: usize,
    },
    /// A heartbeat, a summary or losses went to the link.
    Said {
        /// Bytes of the frame.
        bytes: usize,
    },
    /// What the owner's rules let travel from now on.
    Allowed(Allowed),
    /// A run was read and framed.
    Loaded {
        /// Which message.
        id: MessageId,
        /// The numbers that it holds: a first part of what was asked, or all.
        range: SeqRange,
        /// Bytes of its frame.
        bytes: usize,
    },
    /// The run is not there any more.
    Absent {
        /// Which message.
        id: MessageId,
    },
    /// The link had no room for a frame; it is kept.
    NotPublished {
        /// Which message.
        id: MessageId,
    },
    /// A summary was read, framed and handed to the link.
    SummarySent {
        /// Its stream.
        stream: StreamId,
        /// The range in its header.
        claimed: SeqRange,
        /// What it stands for.
        seqs: SeqSet,
        /// How many entries it has.
        entries: usize,
    },
    /// The buffer folded what it was asked to, or some of it.
    Folded(Folded),
    /// The buffer has done with the summary that the centre refused.
    SummaryGivenUp,
    /// There is no summary of this stream.
    SummaryAbsent(StreamId),
    /// The summary could not be handed to the link.
    SummaryNotSent,
    /// The centre committed.
    Receipt(Receipt),
    /// The centre does not take something.
    Refusal(Refusal),
    /// The owner of the shard speaks.
    Beacon(Beacon),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make a fresh link. Ends in [`Input::Subscribed`] or [`Input::Lost`].
    Connect,
    /// Read and frame a run. Ends in [`Input::Loaded`] or [`Input::Absent`].
    Read {
        /// For which message.
        id: MessageId,
        /// Which stream.
        stream: StreamId,
        /// Which numbers.
        range: SeqRange,
    },
    /// Publish the frame of this message and forget it; [`Input::NotPublished`] if there is no room.
    Publish(MessageId),
    /// Forget the frame of this message.
    Forget(MessageId),
    /// Fold a part of the backlog that no message may have contained. Ends in [`Input::Folded`].
    Fold {
        /// Which part.
        backlog: Backlog,
        /// Nothing, unless some of it is older than this.
        older_than_ms: Option<Millis>,
        /// Windows that began longer ago take no summaries, where that is known.
        age_max_ms: Option<u64>,
    },
    /// Read, frame and publish the oldest summaries of this stream, so many of its entries at most.
    Summary(StreamId, usize),
    /// Frame and publish these losses.
    Losses(StreamId, Vec<Loss>),
    /// Publish a heartbeat.
    Heartbeat,
    /// Hand this to the buffer; without streams it only shows the centre.
    Receipt(Centre, Vec<StreamReceipt>),
    /// Have these passages moved aside: the centre will never take them.
    Refused {
        /// Which stream.
        stream: StreamId,
        /// Which numbers.
        range: SeqRange,
        /// Why.
        reason: RefusalReason,
        /// Which build of the centre says so, where it is known.
        build: Option<Arc<str>>,
    },
    /// Have the pending summary dropped that the centre takes in no form. Ends in
    /// [`Input::SummaryGivenUp`].
    SummaryRefused {
        /// Which stream.
        stream: StreamId,
        /// What it stands for.
        seqs: SeqSet,
        /// What of the stream the centre has counted.
        counted: SeqSet,
        /// Why.
        reason: RefusalReason,
    },
    /// Have passages that other builds of the centre refused for ever offered to this one.
    OfferAgain(Arc<str>),
    /// The centre stated its time.
    CentreTime(EventTime),
    /// What the centre says that the unit has wrong of itself; nothing any more, without.
    Corrected(Option<Correction>),
}

/// Whether the centre can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No link; the next attempt is at this time.
    Down {
        /// On the monotonic clock.
        retry_at: Millis,
    },
    /// An attempt is under way.
    Connecting,
    /// Subscribed.
    Up,
}

/// What the machine can tell of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Links that came up.
    pub links: u64,
    /// Links that were lost or did not come about.
    pub link_losses: u64,
    /// Messages handed to the link, each sending.
    pub messages_sent: u64,
    /// Those of them that had been sent before.
    pub messages_resent: u64,
    /// Passages handed to the link, each sending.
    pub passages_sent: u64,
    /// Messages that receipts covered.
    pub messages_answered: u64,
    /// Passages in them.
    pub passages_answered: u64,
    /// Receipts of the unit's own centre.
    pub receipts: u64,
    /// Refusals that asked to wait.
    pub refused_later: u64,
    /// Refusals that asked for another form.
    pub refused_reshape: u64,
    /// Refusals for ever.
    pub refused_never: u64,
    /// Words of another database, or of an earlier life of ours, that were dropped.
    pub foreign: u64,
    /// Messages that became suspect.
    pub suspects: u64,
}
