//! Why there is no cluster.

use std::io;
use std::path::PathBuf;

use super::READY_WITHIN;
use super::host::{ACCOUNTS, BIN_VARIABLE, DEBIAN_SERVERS};
use crate::process::RunError;
use crate::small_disk::DiskError;

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing to start.
    #[error(
        "no PostgreSQL server in {DEBIAN_SERVERS} or PATH; install it with: apt-get install postgresql"
    )]
    NotInstalled,
    /// The directory that was named is not a server's.
    #[error(
        "{BIN_VARIABLE} is {}, which has no postgres and initdb: name the directory of PostgreSQL's \
         programs, or unset it",
        .0.display()
    )]
    NotThere(PathBuf),
    /// This process is root and no other account exists.
    #[error("PostgreSQL does not run as root and none of the accounts {ACCOUNTS:?} exists")]
    NoAccount,
    /// A small disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file or process could not be made.
    #[error("PostgreSQL cluster: {0}")]
    Io(#[from] io::Error),
    /// A tool of the server failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It ended, or did not answer in time.
    #[error("PostgreSQL did not get ready within {READY_WITHIN:?}; {0}")]
    NotReady(String),
    /// No commit waits for the standby.
    #[error("the standby does not follow within {READY_WITHIN:?}; {0}")]
    NotFollowed(String),
    /// The name would have to be quoted.
    #[error("database name {0:?}: only a-z, 0-9 and _ are allowed")]
    BadName(String),
}
