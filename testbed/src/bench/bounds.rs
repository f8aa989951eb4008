//! What broker and aggregator may take of memory at their default settings, as LIMITS.md states it.

use aggregator::commit::backlog::BACKLOG_FLUSH_BYTES_MAX;
use aggregator::commit::turns::FLUSH_BYTES_MAX;
use aggregator::intake::workers::{CHUNK_BYTES, QUEUE_CHUNKS_MAX};

/// The broker's rings, all of them full: 64 of 4 MiB, of a thousand devices 2 × 16 KiB, and as much
/// again and half of it for the router's bookkeeping of small messages.
const RINGS_MIB: f64 = (64.0 * 4.0 + 32.0) * 2.5;
/// One connection: TLS, buffers, its task, its link to the router.
pub const CONNECTION_MIB: f64 = 80.0 / 1_024.0;

/// `limits.intake_bytes_max`: frames from the broker to the COMMIT, decoded or not.
const FRAMES_MIB: f64 = 256.0;
/// Rows and deltas that wait for the owner, in the live lane and in that of backlogs, and a chunk that
/// each of two threads has in hand.
const QUEUES_MIB: f64 = mib((2 * QUEUE_CHUNKS_MAX + 2) * CHUNK_BYTES);
/// Rows and deltas of a flush: what is live, and the backlog beside it.
const FLUSH_MIB: f64 = mib(FLUSH_BYTES_MAX + BACKLOG_FLUSH_BYTES_MAX);
/// Those of the flush before, which another thread gives back to the allocator while the next is under
/// way.
const GIVEN_BACK_MIB: f64 = FLUSH_MIB;
/// `limits.windows_cached_max`: 50,000 windows of a kibibyte.
const WINDOWS_MIB: f64 = 50.0;
/// `api.cache_bytes_max`: the past of units in the API.
const ANSWERS_MIB: f64 = 160.0;
/// What the process takes by itself.
const PROGRAM_MIB: f64 = 32.0;

/// Of the broker with so many connections.
#[must_use]
pub const fn broker_mib(connections: usize) -> f64 {
    RINGS_MIB + connections as f64 * CONNECTION_MIB
}

/// Of the aggregator.
#[must_use]
pub const fn aggregator_mib() -> f64 {
    let rows = QUEUES_MIB + FLUSH_MIB + GIVEN_BACK_MIB;
    FRAMES_MIB + rows + WINDOWS_MIB + ANSWERS_MIB + PROGRAM_MIB
}

const fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
