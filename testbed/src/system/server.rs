//! One of Verst's programs as a process with an operator's page.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

use super::SystemError;
use crate::process::{Launch, Process, tail};

/// How often a page is asked while a program comes up.
const LOOK: Duration = Duration::from_millis(25);
/// A page that answers later than this does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A program that can be started, killed, paused and started again.
#[derive(Debug)]
pub struct Server {
    name: String,
    launch: Launch,
    log: std::path::PathBuf,
    ops: SocketAddr,
    process: Option<Process>,
    http: reqwest::Client,
}

impl Server {
    pub(super) fn new(
        name: &str,
        launch: Launch,
        log: &std::path::Path,
        ops: SocketAddr,
        http: reqwest::Client,
    ) -> Self {
        Self {
            name: name.to_owned(),
            launch,
            log: log.to_owned(),
            ops,
            process: None,
            http,
        }
    }

    /// Its name in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id while it was started and not stopped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// A page of the operator's listener, such as `readyz`.
    #[must_use]
    pub fn page(&self, page: &str) -> String {
        format!("http://{}/{page}", self.ops)
    }

    /// Starts it, unless it runs, and does not wait.
    ///
    /// # Errors
    /// The process cannot be made.
    pub fn start(&mut self) -> Result<(), SystemError> {
        if self.process.is_none() {
            self.process = Some(self.launch.start()?);
        }
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time; the text quotes its last answer and its log.
    pub async fn ready(&mut self, within: Duration) -> Result<(), SystemError> {
        self.answers("readyz", within).await
    }

    /// Waits until a page answers 200.
    ///
    /// # Errors
    /// As [`Server::ready`].
    pub async fn answers(&mut self, page: &str, within: Duration) -> Result<(), SystemError> {
        let deadline = tokio::time::Instant::now() + within;
        let url = self.page(page);
        loop {
            if let Some(status) = self.exit_status() {
                return Err(SystemError::Ended {
                    name: self.name.clone(),
                    status,
                    log: tail(&self.log),
                });
            }
            let answer = match self.http.get(&url).timeout(ANSWER_WITHIN).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() >= deadline {
                let log = tail(&self.log);
                return Err(SystemError::NotReady {
                    name: self.name.clone(),
                    within,
                    answer,
                    log,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How it ended by itself; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::exit_status)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        self.process
            .as_mut()
            .and_then(|process| process.wait(within))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // Dropped = killed and waited for.
        self.process = None;
    }

    /// SIGTERM, and waits; how it ended, or `None` when it had to be killed.
    pub fn stop(&mut self, within: Duration) -> Option<ExitStatus> {
        self.process
            .take()
            .and_then(|mut process| process.stop(within))
    }

    /// SIGHUP.
    pub fn hang_up(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::HUP);
        }
    }

    /// SIGTERM, and does not wait.
    pub fn terminate(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::TERM);
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.pause();
        }
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        if let Some(process) = &mut self.process {
            process.resume();
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Everything that it logged, over all of its starts.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
