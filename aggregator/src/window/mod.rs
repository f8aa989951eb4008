//! The arithmetic of windows and cursors. Pure: what it needs to know is handed in.
//!
//! [`lateness`] says whether a passage may enter its window, [`dedup`] which numbers of a stream are
//! settled, [`finality`] how far a unit is complete, [`past`] what changes no more by itself, [`rollup`] which longer windows a 5-minute
//! window is part of, and [`state`] holds the committed values of all that.

pub mod dedup;
pub mod finality;
pub mod lateness;
pub mod past;
pub mod rollup;
pub mod state;
