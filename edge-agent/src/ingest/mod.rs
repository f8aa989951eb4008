//! The door: what the camera's software posts, judged item by item, made durable, answered.
//!
//! ```text
//! POST /v1/passages ─► http (limits, media type) ─► split (items) ─► admit (verdict per item)
//!                                                                        │ plates: kept, hashed
//!        200 / 4xx / 503 ◄──────── after the fsync ◄──── buffer ◄────────┘ or dropped here
//! ```
//! Invariants: what is answered with success is durable; a bad item never takes a good one of the
//! same request with it; a number plate that the policy hides never reaches the disk; the bytes of
//! all requests in flight are bounded.

pub mod admit;
pub mod http;
pub mod plates;
mod split;
