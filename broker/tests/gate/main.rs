//! The broker as clients meet it: real sockets, real TLS, one broker for each test.
//!
//! Every attack is sent by a raw client that writes bytes of its own making, while a [`witness`], a
//! unit and a centre with rumqttc, goes on undisturbed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod delivery;
mod door;
mod fixture;
mod lifecycle;
mod raw;
mod witness;
