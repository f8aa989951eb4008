//! The database: how it is reached ([`connect`]), what stands in it ([`schema`]), and
//! how it is asked ([`reader`]), what is dropped of it when it is old ([`retention`]), and whether a
//! commit may still be lost ([`standby`]).
//!
//! Writing is the business of [`crate::commit`], which alone knows what a flush is.

pub mod connect;
pub mod reader;
pub mod retention;
pub mod schema;
pub mod standby;
