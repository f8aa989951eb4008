//! From committed state and messages to what one transaction writes. Pure.
//!
//! The plan holds everything that follows from it, too: the state to install, the receipts and the
//! refusals. None of them leaves before the COMMIT.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::device::{DeviceId, StreamId};
use proto::heartbeat::Heartbeat;
use proto::loss::{LossReason, LossScope};
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, Receipt, Refusal};
use proto::topic::Shard;

use super::draft::Draft;
use super::select::Part;
use crate::intake::decode::{Body, Message, Refused};
use crate::intake::rows::Rows;
use crate::window::lateness::{Horizon, Rejection};
use crate::window::state::{DeviceChange, Memory};

/// What a plan must know besides state and messages.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The centre's clock, ms since 1970.
    pub now_ms: i64,
    /// Event times that windows take.
    pub horizon: Horizon,
    /// Whether raw rows are stored.
    pub raw: bool,
    /// Rejected passages kept whole per device and day.
    pub rejected_per_day_max: i64,
    /// Keys for streams that the database does not know yet, enough for all of them.
    pub stream_keys: &'a [i32],
    /// Who commits, as receipts say it.
    pub centre: Centre,
}

/// What one flush does.
#[derive(Debug)]
pub struct Plan<'a> {
    /// State to write and, after the COMMIT, to install.
    pub changes: HashMap<DeviceId, DeviceChange>,
    /// Everything else to write.
    pub rows: SideRows<'a>,
    /// Shards that it touches: their tokens must hold.
    pub shards: BTreeSet<Shard>,
    /// It took no passage from before this time: the floor must not be above.
    pub oldest_ms: i64,
    /// To be sent after the COMMIT.
    pub receipts: Vec<(DeviceId, Receipt)>,
    /// To be sent after the COMMIT.
    pub refusals: Vec<(DeviceId, Refusal)>,
    /// How many of the keys for streams were used, from the first on.
    pub stream_keys_used: usize,
    /// For the metrics.
    pub tally: Tally,
}

/// What is written besides windows and cursors.
#[derive(Debug, Default)]
pub struct SideRows<'a> {
    /// Raw passages.
    pub raw: Vec<RawPart<'a>>,
    /// Days (UTC, since 1970) of the raw passages.
    pub raw_days: BTreeSet<i64>,
    /// Passages for the side table.
    pub rejected: Vec<RejectedRow>,
    /// New entries of the ledger.
    pub losses: Vec<LossRow>,
    /// Lost passages, or raw rows, that came after all.
    pub recovered: Vec<RecoveredRow>,
    /// Rejected passages that found no room in the side table.
    pub unkept: BTreeMap<UnkeptKey, UnkeptRow>,
    /// The last heartbeat of each device.
    pub heartbeats: BTreeMap<i32, (EventTime, &'a Heartbeat)>,
}

/// Rows of one batch.
#[derive(Debug)]
pub struct RawPart<'a> {
    /// The rows, still without keys.
    pub rows: RawRows<'a>,
    /// Key of the device.
    pub device_key: i32,
    /// Key of the stream.
    pub stream_key: i32,
}

/// Rows as the decoder made them, or made anew because only some are wanted.
#[derive(Debug)]
pub enum RawRows<'a> {
    /// All of a batch.
    Whole(&'a Rows),
    /// Some of a batch.
    Picked(Rows),
}

impl RawRows<'_> {
    /// The rows.
    #[must_use]
    pub const fn rows(&self) -> &Rows {
        match self {
            Self::Whole(rows) => rows,
            Self::Picked(rows) => rows,
        }
    }
}

/// A passage in the side table.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRow {
    /// Key of the device.
    pub device_key: i32,
    /// Key of the stream.
    pub stream_key: i32,
    /// Its number.
    pub seq: u64,
    /// When it happened.
    pub event_time: EventTime,
    /// Why no window takes it.
    pub reason: Rejection,
    /// Whether a summary has brought it into the windows before.
    pub counted: bool,
    /// The passage, as JSON.
    pub passage: serde_json::Value,
}

/// An entry of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossRow {
    /// Key of the device.
    pub device_key: i32,
    /// Key of the stream.
    pub stream_key: i32,
    /// The numbers.
    pub range: SeqRange,
    /// What is lost of them.
    pub scope: LossScope,
    /// Why.
    pub cause: LossCause,
    /// No lost passage is older; none when that is not known.
    pub event_min: Option<EventTime>,
    /// No lost passage is newer; none when that is not known.
    pub event_max: Option<EventTime>,
}

/// Rejected passages without room in the side table: one entry of the ledger for a stream, a day and
/// this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnkeptKey {
    /// Key of the stream.
    pub stream_key: i32,
    /// Whether a summary has brought them into the windows before: only the raw rows are lost then.
    pub counted: bool,
    /// Why no window takes them.
    pub reason: Rejection,
}

impl UnkeptKey {
    /// The word for what is lost, in the ledger and in metrics.
    #[must_use]
    pub const fn scope(self) -> &'static str {
        if self.counted {
            LossScope::RawOnly.word()
        } else {
            "rejected"
        }
    }
}

/// What a flush adds to such an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnkeptRow {
    /// Key of the device.
    pub device_key: i32,
    /// From the least of the numbers to the greatest.
    pub range: SeqRange,
    /// How many of them.
    pub passages: u64,
    /// The time of the oldest.
    pub event_min: EventTime,
    /// The time of the newest.
    pub event_max: EventTime,
}

/// Why passages are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// As the unit declared.
    Declared(LossReason),
    /// The unit says that it has nothing left of them, and nobody declared why.
    Vanished,
    /// The database had counted them, was put back in time, and the unit has let go of them.
    CentreLost,
}

impl LossCause {
    /// The word for it in the ledger, in answers and in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Declared(reason) => reason.word(),
            Self::Vanished => "vanished",
            Self::CentreLost => "centre_lost",
        }
    }
}

/// Numbers of the ledger that came after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredRow {
    /// Key of the stream.
    pub stream_key: i32,
    /// What was lost of them.
    pub scope: LossScope,
    /// The numbers.
    pub range: SeqRange,
}

/// Where the passages of a flush went: all = counted + stored + duplicate + rejected + refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passages that the flush has decided about.
    pub passages: u64,
    /// Into their windows.
    pub counted: u64,
    /// Only as raw rows: a summary had counted them before.
    pub stored: u64,
    /// Settled before.
    pub duplicate: u64,
    /// To the side table.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Refused.
    pub refused: u64,
    /// Into their windows by summaries.
    pub summarised: u64,
    /// Booked as lost, by scope and reason.
    pub lost: BTreeMap<(&'static str, &'static str), u64>,
    /// Booked as lost before, wholly or their raw rows, and come after all.
    pub recovered: u64,
    /// Raw rows.
    pub raw_rows: u64,
    /// The latest statement of each device of when it sent, for the freshness.
    pub sent_at: Vec<EventTime>,
}

/// Plans. All devices, cursors and windows that the parts need must be in memory.
///
/// # Panics
/// When something is not in memory, or an invariant of cursors or windows is broken.
#[must_use]
pub fn plan<'a>(
    memory: &Memory,
    messages: &'a [Message],
    parts: &[Part],
    context: &Context<'_>,
) -> Plan<'a> {
    let mut planner = Planner::new(context.stream_keys);
    let mut drafts: HashMap<&DeviceId, Draft<'_>> = HashMap::new();
    let mut shards = BTreeSet::new();
    let mut refusals = Vec::new();
    for part in parts {
        let message = &messages[part.message];
        let device = &message.sender().device;
        shards.insert(message.sender().shard);
        let draft = drafts.entry(device).or_insert_with(|| {
            let state = memory
                .device(device)
                .unwrap_or_else(|| panic!("{device} is not loaded"));
            Draft::new(state, context.now_ms)
        });
        draft.state(&message.header, context);
        let refused = match &message.body {
            Body::Passages(passages) => {
                let places = message.decided..part.until.unwrap_or(passages.places());
                draft
                    .passages(&message.header, passages, places, context, &mut planner)
                    .err()
            }
            Body::Summary(summary) => {
                let entries = message.decided..part.until.unwrap_or(summary.entries.len());
                let entries = &summary.entries[entries];
                draft
                    .summary(&message.header, entries, context, &mut planner)
                    .err()
            }
            Body::Losses(losses) => draft
                .losses(&message.header, &losses.losses, context, &mut planner)
                .err(),
            Body::Heartbeat(heartbeat) => {
                let sent_at = message.header.sent_at;
                planner
                    .rows
                    .heartbeats
                    .insert(draft.key(), (sent_at, heartbeat));
                draft.inventory(&message.header, heartbeat, context, &mut planner);
                None
            }
            Body::Refused(refused) => Some(refused.clone()),
        };
        planner
            .tally
            .sent_at
            .extend((message.passages() > 0).then_some(message.header.sent_at));
        if let Some(refused) = refused {
            if let Body::Passages(passages) = &message.body {
                let count = (passages.places() - message.decided) as u64;
                planner.tally.passages += count;
                planner.tally.refused += count;
            }
            refusals.push((
                device,
                message.header.stream,
                message.header.range(),
                refused,
            ));
        }
    }
    let mut changes = HashMap::new();
    let mut receipts = Vec::new();
    let mut cursors: HashMap<(&DeviceId, StreamId), SeqSet> = HashMap::new();
    for (device, draft) in drafts {
        let correction = draft.correction(context);
        let (change, streams) = draft.finish();
        for receipt in &streams {
            cursors.insert((device, receipt.stream), receipt.counted.clone());
        }
        if !streams.is_empty() || correction.is_some() {
            let receipt = Receipt {
                centre: context.centre,
                streams,
                correction,
            };
            receipts.push((device.clone(), receipt));
        }
        changes.insert(device.clone(), change);
    }
    let refusals = refusals
        .into_iter()
        .map(|(device, stream, range, refused)| {
            let counted = cursors.get(&(device, stream)).cloned();
            (
                device.clone(),
                refusal(context.centre, stream, range, refused, counted),
            )
        })
        .collect();
    planner.tally.check();
    let stream_keys_used = context.stream_keys.len() - planner.stream_keys.len();
    let (rows, tally) = (planner.rows, planner.tally);
    Plan {
        changes,
        rows,
        shards,
        oldest_ms: context.horizon.oldest_ms(),
        receipts,
        refusals,
        stream_keys_used,
        tally,
    }
}

/// A refusal as the unit gets it.
#[must_use]
pub fn refusal(
    centre: Centre,
    stream: StreamId,
    range: Option<SeqRange>,
    refused: Refused,
    counted: Option<SeqSet>,
) -> Refusal {
    let Refused {
        class,
        reason,
        detail,
    } = refused;
    Refusal {
        centre,
        stream,
        range,
        class,
        reason,
        detail,
        counted,
    }
}

/// What all drafts of a plan share.
#[derive(Debug)]
pub struct Planner<'a, 'k> {
    /// What is written besides windows and cursors.
    pub rows: SideRows<'a>,
    /// Where the passages went.
    pub tally: Tally,
    stream_keys: std::slice::Iter<'k, i32>,
}

impl<'k> Planner<'_, 'k> {
    /// With so many keys for streams that have none.
    #[must_use]
    pub fn new(stream_keys: &'k [i32]) -> Self {
        Self {
            rows: SideRows::default(),
            tally: Tally::default(),
            stream_keys: stream_keys.iter(),
        }
    }

    /// A rejected passage is kept nowhere: the ledger names it.
    pub fn unkept(&mut self, key: UnkeptKey, device_key: i32, seq: Seq, time: EventTime) {
        let lost = self.tally.lost.entry((key.scope(), key.reason.word()));
        *lost.or_default() += 1;
        let row = self.rows.unkept.entry(key).or_insert(UnkeptRow {
            device_key,
            range: seq.into(),
            passages: 0,
            event_min: time,
            event_max: time,
        });
        row.range = row.range.hull(seq.into());
        row.passages += 1;
        row.event_min = row.event_min.min(time);
        row.event_max = row.event_max.max(time);
    }

    /// A key for a stream that has none.
    ///
    /// # Panics
    /// When more streams begin than the caller has counted.
    pub fn stream_key(&mut self) -> i32 {
        *self
            .stream_keys
            .next()
            .unwrap_or_else(|| panic!("more new streams than keys"))
    }
}

impl Tally {
    /// So many were booked as lost.
    pub fn lose(&mut self, scope: LossScope, cause: LossCause, passages: u64) {
        if passages > 0 {
            let lost = self.lost.entry((scope.word(), cause.word()));
            *lost.or_default() += passages;
        }
    }

    fn check(&self) {
        let rejected: u64 = self.rejected.values().sum();
        let sum = self.counted + self.stored + self.duplicate + rejected + self.refused;
        assert!(self.passages == sum, "a passage went astray: {self:?}");
    }
}
