//! Buffers the passages of one camera unit and forwards them until the centre has committed them.
//!
//! A passage's way: [`ingest`] (judged at the door) → [`buffer`] (on the disk, then answered) →
//! [`uplink`] (sent until a receipt covers it). [`run`] wires them; [`status`] and [`metrics`] show
//! how they fare; [`cli`] is what a person types; [`config`] says how it shall be.

pub mod buffer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod guard;
pub mod ingest;
pub mod metrics;
pub mod run;
pub mod status;
pub mod uplink;
