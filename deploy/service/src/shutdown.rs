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

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// Runs one test of this file again in a process of its own, which may get signals.
    fn rerun(test: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            &format!("shutdown::tests::{test}"),
            "--nocapture",
        ]);
        command.env("VERST_TEST_VICTIM", test).output().unwrap()
    }

    fn is_victim(test: &str) -> bool {
        std::env::var("VERST_TEST_VICTIM").is_ok_and(|victim| victim == test)
    }

    fn send_myself(signal: Signal) {
        kill_process(getpid(), signal).unwrap();
    }

    fn stops_in_order_on(signal: Signal) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let token = signals();
            assert!(!token.is_cancelled());
            send_myself(signal);
            token.cancelled().await;
        });
    }

    #[test]
    fn sigterm_cancels_the_token_and_the_process_lives_on() {
        const NAME: &str = "sigterm_cancels_the_token_and_the_process_lives_on";
        if is_victim(NAME) {
            stops_in_order_on(Signal::TERM);
            return;
        }
        let output = rerun(NAME);
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn sigint_cancels_the_token_and_the_process_lives_on() {
        const NAME: &str = "sigint_cancels_the_token_and_the_process_lives_on";
        if is_victim(NAME) {
            stops_in_order_on(Signal::INT);
            return;
        }
        let output = rerun(NAME);
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_second_signal_exits_at_once_with_130() {
        const NAME: &str = "a_second_signal_exits_at_once_with_130";
        if is_victim(NAME) {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let token = signals();
                send_myself(Signal::TERM);
                token.cancelled().await;
                send_myself(Signal::INT);
                std::future::pending::<()>().await;
            });
        }
        let output = rerun(NAME);
        assert_eq!(
            output.status.code(),
            Some(i32::from(exit::INTERRUPTED)),
            "{output:?}"
        );
    }
}
