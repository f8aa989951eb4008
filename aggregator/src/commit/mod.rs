//! From messages to one committed transaction per flush, and to receipts after it.
//!
//! One owner ([`owner`]) holds the committed state. Live messages wait for their turn ([`turns`]), the
//! others for room beside them ([`backlog`]). Each flush: [`gather`] what it needs, [`select`] what
//! fits and leave the rest over ([`left_over`]), [`load`] what is not in memory, [`plan`] purely
//! ([`draft`] for each device), [`writer`] one transaction, install, receipts. [`lease`] says which shards are owned and under which fencing token; [`verdict`] sorts
//! the database's errors by what to do next; [`surge`] keeps a bug of ours from emptying the fleet's
//! buffers.
//!
//! Invariants: nothing is planned while an outcome is unknown; a receipt quotes committed cursors
//! only; rows written = rows planned, or nothing is.

pub mod backlog;
mod columns;
pub mod draft;
pub mod gather;
pub mod lease;
pub mod left_over;
pub mod load;
pub mod owner;
pub mod plan;
pub mod select;
pub mod side_table;
mod statements;
pub mod surge;
pub mod turns;
pub mod verdict;
pub mod writer;

#[cfg(test)]
pub(crate) mod database_tests;
#[cfg(test)]
mod floor_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod hypertable_tests;
#[cfg(test)]
mod inventory_tests;
#[cfg(test)]
pub(crate) mod owner_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod rowless_tests;
