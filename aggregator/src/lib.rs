//! Turns passages into exact event-time windows in PostgreSQL and answers questions about them.
//!
//! A passage's way: [`intake`] (from the broker, decoded and folded on threads) → [`commit`] (one
//! owner plans against committed state and writes one transaction per flush, then sends receipts),
//! with the arithmetic of [`window`] → [`store`] (tables) → the [`api`]. [`run`] wires them.
//! [`reprocess`] is a program of its own: passages that came too late, folded in by an operator.
//!
//! Invariants: nothing is receipted before its COMMIT; planning sees committed state only; every
//! transaction proves the fencing token of each shard that it touches.

pub mod api;
pub mod backoff;
pub mod commit;
pub mod config;
pub mod intake;
pub mod metrics;
pub mod reprocess;
pub mod run;
pub mod store;
pub mod window;

#[cfg(test)]
mod testing;
