//! The whole system, end to end: the real programs as processes, real TLS, a real database.
//!
//! Each test starts its own system on private ports and ends with the comparison of every window
//! and every raw row with a recomputation from what was posted. The programs must have been built
//! (`cargo build --workspace --bins`; `deploy/test` does).

mod attacks;
mod availability;
mod cameras;
mod chaos;
mod clones;
mod delivery;
mod kills;
mod late;
mod leftovers;
mod put_back;
mod replays;
mod reprocess;
mod rest;
mod restarts;
mod secrets;
mod summary_first;
mod support;
mod systemd;
mod two_brokers;
