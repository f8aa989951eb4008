//! One unit's real agent, and the camera in front of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{Server, SystemError};
use crate::process::Launch;
use crate::small_disk::SmallDisk;
use crate::unit_clock::UnitClock;

/// How long a camera waits for the answer to one post.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long it pauses before it posts again what was not answered.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Where an agent keeps its things and listens.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Directory of the store.
    pub(super) buffer: PathBuf,
    /// Socket of `edge-agent status`.
    pub(super) status: PathBuf,
    /// Where cameras post.
    pub(super) door: SocketAddr,
    /// Operator's pages.
    pub(super) ops: SocketAddr,
}

/// A real `edge-agent` process.
#[derive(Debug)]
pub struct Agent {
    device: String,
    /// The process.
    pub server: Server,
    program: PathBuf,
    config: PathBuf,
    camera: Camera,
    /// Its wall clock, where the rig has one.
    pub clock: Option<UnitClock>,
    /// The disk of its buffer, where the rig has one. After the process, which holds files of it.
    pub disk: Option<SmallDisk>,
}

impl Agent {
    pub(super) fn new(
        device: &str,
        server: Server,
        program: PathBuf,
        config: PathBuf,
        door: SocketAddr,
        http: reqwest::Client,
    ) -> Self {
        let url = format!("http://{door}/v1/passages");
        Self {
            device: device.to_owned(),
            server,
            program,
            config,
            camera: Camera { url, http },
            clock: None,
            disk: None,
        }
    }

    /// Its unit's name.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What posts to it; a clone may post from another task.
    #[must_use]
    pub fn camera(&self) -> &Camera {
        &self.camera
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The command that an operator would type to see its state.
    #[must_use]
    pub fn status_command(&self) -> String {
        format!(
            "{} status --config {}",
            self.program.display(),
            self.config.display()
        )
    }

    /// What `edge-agent status --json` prints; an agent that is degraded answers too.
    ///
    /// # Errors
    /// It does not run, or prints no JSON.
    pub fn status(&self) -> Result<serde_json::Value, SystemError> {
        let launch = Launch::new("edge-agent status", &self.program, "/dev/null")
            .args(["status", "--json", "--config"])
            .arg(&self.config);
        let output = tokio::task::block_in_place(|| launch.output())?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let text = format!("edge-agent status: {}: {error}: {said}", output.status);
            SystemError::Io(std::io::Error::other(text))
        })
    }

    /// The lines that `edge-agent export` writes of a store into a new file.
    ///
    /// # Errors
    /// It fails, or writes anything else than lines of JSON.
    pub fn export(&self, store: &Path, out: &Path) -> Result<Vec<serde_json::Value>, SystemError> {
        let launch = Launch::new("edge-agent export", &self.program, "/dev/null")
            .arg("export")
            .arg(store)
            .arg("--out")
            .arg(out);
        let output = tokio::task::block_in_place(|| launch.output())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || !output.stdout.is_empty() {
            let text = format!("edge-agent export: {}: {said}", output.status);
            return Err(SystemError::Io(std::io::Error::other(text)));
        }
        let text = std::fs::read_to_string(out)?;
        let lines = text.lines().map(serde_json::from_str);
        let lines = lines.collect::<Result<_, _>>();
        lines.map_err(|error| SystemError::Io(std::io::Error::other(error)))
    }
}

/// Posts passages as the camera's software does.
#[derive(Debug, Clone)]
pub struct Camera {
    url: String,
    http: reqwest::Client,
}

/// The agent's answer to a post that it accepted at least in part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// New passages, durable.
    pub accepted: u64,
    /// Passages whose `event_id` was accepted before.
    #[serde(default)]
    pub duplicates: u64,
    /// Passages that were refused, each with its reason.
    #[serde(default)]
    pub errors: Vec<serde_json::Value>,
}

/// A post that was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No answer. The passages may be accepted or not: only an `event_id` makes a retry safe.
    #[error("no answer to a post: {0}")]
    NoAnswer(#[from] reqwest::Error),
    /// A problem document.
    #[error("post refused with {status}: {body}")]
    Refused {
        /// HTTP status.
        status: reqwest::StatusCode,
        /// The document.
        body: String,
    },
    /// The limit was reached; the last failure.
    #[error("not accepted within {within:?}: {last}")]
    GaveUp {
        /// How long was tried.
        within: Duration,
        /// Why the last attempt failed.
        last: Box<PostError>,
    },
}

impl PostError {
    /// Whether the same post may be tried again: the agent is away, overloaded or full.
    fn is_passing(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { status, .. } => matches!(status.as_u16(), 429 | 503),
            Self::GaveUp { .. } => false,
        }
    }
}

impl Camera {
    /// Where it posts.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts lines of NDJSON once.
    ///
    /// # Errors
    /// [`PostError`].
    pub async fn post(&self, lines: &[String]) -> Result<Answer, PostError> {
        let request = self
            .http
            .post(&self.url)
            .header("content-type", "application/x-ndjson")
            .timeout(ANSWER_WITHIN)
            .body(lines.join("\n"));
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.json().await?);
        }
        Err(PostError::Refused {
            status,
            body: response.text().await?,
        })
    }

    /// Posts until there is an answer, through restarts of the agent. The lines need `event_id`s,
    /// or a lost answer counts them twice.
    ///
    /// # Errors
    /// A refusal that will not pass, or the limit.
    pub async fn post_through(
        &self,
        lines: &[String],
        within: Duration,
    ) -> Result<Answer, PostError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match self.post(lines).await {
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(PostError::GaveUp {
                        within,
                        last: Box::new(error),
                    });
                }
                Err(_) => tokio::time::sleep(RETRY_AFTER).await,
                Ok(answer) => return Ok(answer),
            }
        }
    }
}
