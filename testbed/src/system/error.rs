//! Why a system is not as it should be.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use crate::postgres::ClusterError;
use crate::process::RunError;
use crate::programs::MissingProgram;
use crate::recompute::database as tables;
use crate::small_disk::DiskError;

/// Why the system is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// Not built.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// The database server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A command that should have succeeded.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file, directory, port or process.
    #[error("cannot start the system: {0}")]
    Io(#[from] io::Error),
    /// A small disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A query.
    #[error("database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// HTTP.
    #[error("http: {0}")]
    Http(#[from] reqwest::Error),
    /// A program ended by itself.
    #[error("{name} ended with {status}; {log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// Its last lines.
        log: String,
    },
    /// A program does not come up.
    #[error("{name} is not ready after {within:?}, it answers: {answer}; {log}")]
    NotReady {
        /// Which.
        name: String,
        /// How long was waited.
        within: Duration,
        /// What its page says.
        answer: String,
        /// Its last lines.
        log: String,
    },
    /// Passages did not arrive.
    #[error("{wanted} passages were accepted, after {within:?} there are {found:?}; {logs}")]
    NotSettled {
        /// Accepted.
        wanted: u64,
        /// What the tables hold.
        found: tables::Totals,
        /// How long was waited.
        within: Duration,
        /// Last lines of the programs.
        logs: String,
    },
}
