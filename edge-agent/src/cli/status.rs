//! `edge-agent status`: asks the running agent over its socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use service::exit;

use super::{complain, say};
use crate::config::{self, STATUS_SOCKET};
use crate::status::report::Report;
use crate::status::{server, text};

/// How long the agent may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer, at most.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// The agent's status socket [default: /run/verst/edge-agent.sock].
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Take the socket from this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Status {
    pub(super) fn execute(self) -> u8 {
        let socket = match (self.socket, self.config) {
            (Some(socket), _) => socket,
            (None, Some(file)) => match config::load(&file) {
                Ok(config) => config.status.socket,
                Err(faults) => return complain(&format!("configuration:\n{faults}"), exit::CONFIG),
            },
            (None, None) => STATUS_SOCKET.into(),
        };
        let answer = match ask(&socket, ANSWER_TIMEOUT) {
            Ok(answer) => answer,
            Err(error) => {
                let problem = format!("no agent answers at {}: {error}", socket.display());
                return complain(&problem, exit::NOT_RUNNING);
            }
        };
        let report: Report = match serde_json::from_str(&answer) {
            Ok(report) => report,
            Err(error) => {
                let problem = format!("the agent's answer cannot be read: {error}");
                return complain(&problem, exit::NOT_RUNNING);
            }
        };
        if self.json {
            say(&answer);
            say("\n");
        } else {
            say(&text::render(&report));
        }
        if report.healthy {
            exit::OK
        } else {
            exit::FAILURE
        }
    }
}

/// The body of the status page.
fn ask(socket: &Path, patience: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let page = server::PATH;
    write!(
        stream,
        "GET {page} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("the answer is cut short"))?;
    if head.starts_with("HTTP/1.1 200 ") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(
            head.lines().next().unwrap_or_default().to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listening() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (folder, path, listener)
    }

    #[test]
    fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
        let (_folder, path, _listener) = listening();
        let error = ask(&path, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    }

    #[test]
    fn an_answer_without_end_is_cut() {
        let (_folder, path, listener) = listening();
        let endless = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
        });
        let answer = ask(&path, Duration::from_secs(60)).unwrap();
        assert_eq!(answer.len() as u64 + 19, ANSWER_BYTES_MAX);
        endless.join().unwrap();
    }
}
