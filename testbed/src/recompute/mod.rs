//! What the database must hold, computed a second time from what was posted.
//!
//! The judge of every end-to-end check, so it shares nothing with what it judges: it reads the
//! customer's JSON with its own code ([`event`]), adds up windows one passage at a time with plain
//! maps ([`stats`]), knows nothing of batches, deltas or cursors, and demands equality of every
//! field of every window and of every raw row ([`ledger`]). Only [`database`] does I/O.

pub mod database;
pub mod event;
pub mod expected;
pub mod ledger;
pub mod stats;

pub use event::Fact;
pub use ledger::{Findings, Ledger, Windows};
pub use stats::{Interval, Stats, WindowKey};
