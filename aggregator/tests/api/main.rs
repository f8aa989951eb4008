//! The REST API, the views and the roles, over real HTTP against a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod answers;
mod as_of;
mod centre;
mod completeness;
mod description;
mod errors;
mod group;
mod ledger;
mod recompute;
mod roles;
mod traffic;
mod units;
mod views;
