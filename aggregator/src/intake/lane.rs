//! Two lanes from the broker to the flush, so that what is live never waits behind a backlog.
//!
//! ```text
//! door ─┬─ live ────► a thread decodes ───► owner: by turns, with the flush interval
//!       └─ backlog ─► threads decode ─────► owner: as many as a flush of some 200 ms takes
//! ```
//! Units send live passages first; this is the same at the centre. A hundred units that come back
//! together have some seconds of work for the database on their way at any time: what stood behind it
//! would be so much older when it is committed. Threads of the backlog wait when the owner has enough
//! of it; rows take ten times the memory of their frames, so what waits, waits undecoded.
//!
//! The lanes are told apart by how much of the device is on its way, which a device without a backlog
//! never reaches. Nothing depends on the order between the lanes: a cursor is a set of numbers.

use proto::limits::IN_FLIGHT_BYTES_MAX;

/// A device of which so much is on its way has a backlog: one of the largest messages in which a unit
/// sends one.
const BACKLOG_BYTES: usize = IN_FLIGHT_BYTES_MAX / 8;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Goes first.
    Live,
    /// Has the rest.
    Backlog,
}

impl Lane {
    /// By how much of its device is on its way, itself included.
    #[must_use]
    pub const fn of(device_bytes: usize) -> Self {
        if device_bytes < BACKLOG_BYTES {
            Self::Live
        } else {
            Self::Backlog
        }
    }
}

/// One of something for each lane.
#[derive(Debug, Clone)]
pub struct Lanes<T> {
    /// Of [`Lane::Live`].
    pub live: T,
    /// Of [`Lane::Backlog`].
    pub backlog: T,
}

impl<T> Lanes<T> {
    /// The one of this lane.
    #[must_use]
    pub const fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        }
    }
}

impl<T> Lanes<flume::Receiver<T>> {
    /// Receives from either.
    ///
    /// # Errors
    /// One of them has no sender any more.
    pub async fn either(&self) -> Result<T, flume::RecvError> {
        tokio::select! {
            one = self.live.recv_async() => one,
            one = self.backlog.recv_async() => one,
        }
    }
}

/// Two bounded channels.
#[must_use]
pub fn channels<T>(max: usize) -> (Lanes<flume::Sender<T>>, Lanes<flume::Receiver<T>>) {
    let (live_in, live) = flume::bounded(max);
    let (backlog_in, backlog) = flume::bounded(max);
    let senders = Lanes {
        live: live_in,
        backlog: backlog_in,
    };
    (senders, Lanes { live, backlog })
}
