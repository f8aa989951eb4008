//! From the broker to messages that can be planned.
//!
//! [`mqtt`] receives what [`presence`] has asked for, [`admit`] bounds what is on the way, and in two
//! [`lane`]s [`workers`] decode and fold ([`decode`]) on threads of their own; [`reach`] counts the
//! brokers. Nothing here is durable and nothing needs to be: what is dropped was not receipted and is
//! sent again.

pub mod admit;
pub mod decode;
pub mod lane;
pub mod mqtt;
pub mod presence;
pub mod reach;
pub mod rows;
pub mod workers;
