//! The way up: from the buffer to the centre and, by receipt, back.
//!
//! [`machine`] decides, with [`lanes`] (what next), [`flight`] (what is on its way), [`gate`]
//! (whether the centre wants it), [`folding`] (what goes ahead as summaries), [`notes`] (summaries and
//! losses), [`centre`] (whose word counts), [`route`] (over which broker), [`frontier`] and
//! [`backoff`]: all pure, told the time and the dice.
//! [`courier`] says what that means between buffer and link, by way of [`frames`] and [`inbox`], and
//! [`driver`] does it, with [`mqtt`] and [`tls`], and shows itself in [`view`].
//!
//! Invariant of the whole: nothing here is a queue of passages. Whatever is on its way still lies
//! in the buffer, and only a receipt frees it.

pub mod allowance;
pub mod backoff;
pub mod cap;
pub mod centre;
pub mod courier;
pub mod driver;
pub mod exchange;
pub mod flight;
pub mod folding;
pub mod frames;
pub mod frontier;
pub mod gate;
pub mod inbox;
pub mod lanes;
pub mod machine;
pub mod meter;
#[cfg(test)]
pub(crate) mod model_link;
pub mod mqtt;
pub mod notes;
pub mod rate;
pub mod route;
pub mod share;
pub mod tls;
pub mod view;
