//! What every Verst program shares towards its operator.
//!
//! Not on the path of a passage. A program's `main` reads as a story told with these modules:
//! [`panics::install`], [`config::load`], [`logging::init`], [`tls::install_crypto_provider`],
//! [`shutdown::signals`], [`hangup::check_config`], tasks in a [`tasks::TaskSet`], pages by [`ops::router`] over
//! [`serve::http`], and an [`exit`] code at the end.
//!
//! Invariants: a panic that nobody contained ends the process; a task that fails stops the whole
//! program in order; no fault, log line or page shows a secret; nothing here waits without a limit.

pub mod clock;
pub mod config;
pub mod descriptors;
pub mod exit;
pub mod hangup;
pub mod logging;
pub mod ops;
pub mod panics;
pub mod places;
pub mod private_file;
pub mod problem;
pub mod runtime;
pub mod serve;
pub mod shutdown;
pub mod systemd;
pub mod tasks;
pub mod tls;
