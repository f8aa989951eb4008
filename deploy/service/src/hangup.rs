//! SIGHUP for programs that read their settings at the start: the file is checked, and nothing else
//! changes.
//!
//! A restart is the way to new settings. What SIGHUP is worth here: it does not end the program, as it
//! would without a handler, and the log says whether the file would pass, before anybody restarts.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::ConfigFaults;

/// Checks the file at every SIGHUP until the process ends. Call once, inside a tokio runtime.
///
/// # Panics
/// When the kernel refuses a signal handler.
pub fn check_config(
    path: &Path,
    check: impl Fn(&Path) -> Result<(), ConfigFaults> + Send + 'static,
) {
    let hangups = signal(SignalKind::hangup()).expect("cannot handle SIGHUP");
    crate::tasks::spawn_for_process(watch(hangups, path.to_owned(), check));
}

async fn watch(
    mut hangups: Signal,
    path: PathBuf,
    check: impl Fn(&Path) -> Result<(), ConfigFaults> + Send,
) {
    while hangups.recv().await.is_some() {
        match check(&path) {
            Ok(()) => tracing::info!(
                path = %path.display(),
                "SIGHUP: the configuration is sound; it takes effect with a restart"
            ),
            Err(faults) => tracing::error!(
                %faults,
                "SIGHUP: going on with the settings of the start; with this file a restart would fail"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn sighup_has_the_file_checked_and_ends_nothing() {
        let (checked, mut checks) = mpsc::channel(1);
        check_config(Path::new("/nowhere/agent.toml"), move |path| {
            checked.try_send(path.to_owned()).expect("somebody listens");
            Ok(())
        });
        for _ in 0..2 {
            kill_process(getpid(), Signal::HUP).expect("sent");
            let path = tokio::time::timeout(Duration::from_secs(30), checks.recv()).await;
            assert_eq!(
                path.expect("in time").as_deref(),
                Some(Path::new("/nowhere/agent.toml"))
            );
        }
    }
}
