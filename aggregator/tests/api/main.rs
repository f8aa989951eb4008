//! The REST API, the views and the roles, over real HTTP against a real PostgreSQL.

mod answers;
mod centre;
mod description;
mod errors;
mod roles;
mod traffic;
mod units;
mod views;
