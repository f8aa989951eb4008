//! What version 1 of the wire promises, tried from outside the crate.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arbitrary;
mod golden;
mod hostile;
mod merging;
mod ranges;
mod round_trip;
mod summaries;
