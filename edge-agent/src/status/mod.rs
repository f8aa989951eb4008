//! What `edge-agent status` shows, and the socket that answers it.

pub mod backlog;
pub mod rates;
pub mod report;
pub mod server;
pub mod text;
