//! What a buffer's directory holds, read through the real buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use edge_agent::buffer::{
    Alarm, AppendError, Buffer, BufferSettings, OpenError, PendingSummary, QuotaPolicy, ReadError,
    ReadLimit, StoreStopped,
};
use proto::device::CentreId;
use proto::passage::Passage;
use proto::ranges::{Seq, SeqSet};
use proto::receipt::{Centre, StreamReceipt};
use proto::{DeviceId, StreamId};

use crate::system::DEVICE;

const LIMIT: ReadLimit = ReadLimit {
    passages: 4_096,
    bytes: 1 << 20,
};

/// How long a store may take to open before it is moved aside. The agent's least.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Faults that a report lists; further ones are counted only.
const FAULTS_SHOWN_MAX: usize = 10;

/// The database that receipts come from here.
pub const CENTRE: Centre = Centre {
    id: CentreId::from_bytes([1; 16]),
    timeline: 1,
};

/// Adds what was wrong after one seed to a report's list, as far as there is room.
pub fn list(faults: &mut Vec<String>, seed: u64, found: Vec<String>) {
    let room = FAULTS_SHOWN_MAX.saturating_sub(faults.len());
    let shown = found.into_iter().take(room);
    faults.extend(shown.map(|fault| format!("seed {seed}: {fault}")));
}

/// The buffer could not be worked with.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// The machine.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The buffer does not open at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The buffer does not take passages.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The buffer stopped.
    #[error(transparent)]
    Stopped(#[from] StoreStopped),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// What is in a buffer.
#[derive(Debug, Default)]
pub struct Held {
    /// The raw passages without a receipt, by stream and number.
    pub passages: BTreeMap<(StreamId, u64), Passage>,
    /// Numbers that are stated as lost.
    pub lost: BTreeMap<StreamId, SeqSet>,
    /// Numbers that receipts covered.
    pub settled: BTreeMap<StreamId, SeqSet>,
    /// Checksums of the summaries that wait for a receipt.
    pub summaries: BTreeSet<u64>,
    /// What an operator should see to.
    pub alarms: Vec<Alarm>,
}

/// Settings for the buffer of [`DEVICE`] in `directory`, which is made.
#[must_use]
pub fn settings(directory: &Path, quota_bytes: u64, policy: QuotaPolicy) -> BufferSettings {
    BufferSettings {
        device: DeviceId::new(DEVICE).expect("a name"),
        directory: directory.to_owned(),
        quota_bytes,
        free_floor_bytes: 0,
        policy,
        linger: Duration::ZERO,
        open_timeout: OPEN_TIMEOUT,
    }
}

/// Runs work on the buffer; its thread has ended before this returns.
///
/// # Errors
/// The buffer does not open, or the work's own.
pub fn with_buffer<T>(
    settings: &BufferSettings,
    work: impl AsyncFnOnce(&Buffer) -> Result<T, HeldError>,
) -> Result<T, HeldError> {
    let (buffer, owner) = Buffer::open(settings)?;
    let thread = std::thread::spawn(move || owner.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let result = runtime.block_on(work(&buffer));
    drop(buffer);
    let ended = thread.join();
    ended.map_err(|_| HeldError::Other("the thread of the buffer panicked".to_owned()))?;
    result
}

/// Reads everything. Passages behind a summary can be read once it has a receipt, so one is given.
///
/// # Errors
/// The buffer stopped.
pub async fn read(buffer: &Buffer) -> Result<Held, HeldError> {
    let state = buffer.state().borrow().clone();
    let mut held = Held {
        alarms: state.alarms.clone(),
        ..Held::default()
    };
    for stream in &state.streams {
        for pending in buffer.pending_summaries(stream.id, usize::MAX).await? {
            held.summaries.insert(checksum(&pending)?);
        }
        let summed = stream.summed.union(&stream.counted);
        let receipt = receipt(stream.id, summed, SeqSet::new());
        buffer.receipt(CENTRE, vec![receipt]).await?;
        let mut next = Some(Seq::FIRST);
        while let Some(from) = next {
            match buffer.read(stream.id, from, LIMIT).await {
                Ok(Some(run)) => {
                    for (place, passage) in run.batch.iter().enumerate() {
                        let number = run.first.get() + place as u64;
                        held.passages.insert((stream.id, number), passage);
                    }
                    next = Seq::new(run.first.get() + run.batch.len() as u64).ok();
                }
                Ok(None) => next = None,
                Err(ReadError::Corrupt { range, .. }) => next = range.last().next(),
                Err(ReadError::Stopped(error)) => return Err(error.into()),
            }
        }
    }
    // What was found damaged while reading is stated by now.
    let state = buffer.state().borrow().clone();
    for (stream, loss) in &state.losses {
        let lost = held.lost.entry(*stream).or_default();
        *lost = lost.union(&loss.range.into());
    }
    for stream in &state.streams {
        let settled = stream.stored.union(&stream.lost);
        held.settled.insert(stream.id, settled);
    }
    Ok(held)
}

/// A receipt for one stream.
#[must_use]
pub fn receipt(stream: StreamId, counted: SeqSet, stored: SeqSet) -> StreamReceipt {
    StreamReceipt {
        stream,
        counted,
        stored,
        lost: SeqSet::new(),
        afresh: false,
    }
}

/// A checksum of a summary as it leaves.
///
/// # Errors
/// It cannot be written.
pub fn checksum(pending: &PendingSummary) -> Result<u64, HeldError> {
    let bytes = postcard::to_stdvec(&pending.entry);
    let bytes = bytes.map_err(|error| HeldError::Other(error.to_string()))?;
    Ok(crc32c::crc32c(&bytes).into())
}
