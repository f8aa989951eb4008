//! Signals become a token: the first asks for an orderly stop, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit;

/// A token that SIGTERM or SIGINT cancels. A second of either exits with [`exit::INTERRUPTED`].
///
/// Call once, early, inside a tokio runtime: from then on the default action of both is gone.
///
/// # Panics
/// When the kernel refuses a signal handler: a program that cannot be stopped must not start.
#[must_use]
pub fn signals() -> CancellationToken {
    let terminate = signal(SignalKind::terminate()).expect("cannot handle SIGTERM");
    let interrupt = signal(SignalKind::interrupt()).expect("cannot handle SIGINT");
    let token = CancellationToken::new();
    crate::tasks::spawn_for_process(watch(terminate, interrupt, token.clone()));
    token
}

async fn watch(mut terminate: Signal, mut interrupt: Signal, token: CancellationToken) {
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::info!(
        signal = name,
        "stopping in order; the same signal again ends the process at once"
    );
    token.cancel();
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "second signal: ending now");
    std::process::exit(i32::from(exit::INTERRUPTED));
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
