//! Verst's wire format: what a unit and the centre say to each other, and the arithmetic that both
//! sides must do alike.
//!
//! Pure: no sockets, files, clocks, threads or randomness. Bytes from outside never panic here and
//! never make it allocate more than [`limits`] allows.
//!
//! A passage's way through this crate: [`passage`] (one vehicle) → [`batch`] (many, in columns) →
//! [`frame`] (on the wire, under a [`topic`]) → [`window`] (folded into statistics) →
//! [`receipt`] (what the centre has committed, as [`ranges`] of sequence numbers).

pub mod batch;
pub mod codec;
mod column;
pub mod device;
pub mod frame;
pub mod header;
pub mod heartbeat;
pub mod limits;
pub mod loss;
pub mod passage;
pub mod plate;
pub mod ranges;
pub mod receipt;
pub mod summary;
pub mod topic;
pub mod window;

pub use batch::PassageBatch;
pub use device::{CentreId, DeviceId, StreamId};
pub use passage::{EventTime, Passage, Speed};
pub use plate::Plate;
pub use ranges::{Seq, SeqRange, SeqSet};
pub use topic::Shard;
pub use window::{Bucket, SpeedStats, WindowDelta};
