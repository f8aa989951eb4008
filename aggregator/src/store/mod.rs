//! The database: how it is reached ([`connect`]), what stands in it ([`schema`]).
//!
//! Writing is the business of [`crate::commit`], which alone knows what a flush is.

pub mod connect;
pub mod schema;
