//! What broker and aggregator may take of memory at their default settings, as LIMITS.md states it.

/// The broker's rings, all of them full: 64 of 4 MiB, of a thousand devices 2 × 16 KiB, and as much
/// again and half of it for the router's bookkeeping of small messages.
const RINGS_MIB: f64 = (64.0 * 4.0 + 32.0) * 2.5;
/// One connection: TLS, buffers, its task, its link to the router.
pub const CONNECTION_MIB: f64 = 80.0 / 1_024.0;

/// Frames before they are decoded.
const FRAMES_MIB: f64 = 256.0;
/// Decoded: 32 chunks of 2 MiB, and a flush of either lane.
const ROWS_MIB: f64 = 32.0 * 2.0 + 32.0 + 4.0;
/// 50,000 windows.
const WINDOWS_MIB: f64 = 50.0;
/// The past of units in the API.
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
    FRAMES_MIB + ROWS_MIB + WINDOWS_MIB + ANSWERS_MIB + PROGRAM_MIB
}
