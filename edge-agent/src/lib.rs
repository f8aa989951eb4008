//! Buffers the passages of one camera unit and forwards them until the centre has committed them.

pub mod buffer;
pub mod clock;
pub mod config;
pub mod ingest;
pub mod uplink;
