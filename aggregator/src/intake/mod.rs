//! From the broker to messages that can be planned.
//!
//! [`mqtt`] receives what [`presence`] has asked for, [`admit`] bounds what is on the way, [`workers`] decode and fold ([`decode`])
//! on threads of their own. Nothing here is durable and nothing needs to be: what is dropped was not
//! receipted and is sent again.

pub mod admit;
pub mod decode;
pub mod mqtt;
pub mod presence;
pub mod rows;
pub mod workers;
