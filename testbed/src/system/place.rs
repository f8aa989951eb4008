//! Where each program of a system has its port, its settings and its log.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{Server, SystemError};
use crate::postgres::free_port;
use crate::process::Launch;

/// An address of this machine that nobody else has.
pub(super) fn loopback() -> io::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<(), SystemError> {
    let copy = Launch::new("cp", "cp", "/dev/null")
        .arg("-a")
        .args([from, to]);
    tokio::task::block_in_place(|| copy.run())?;
    Ok(())
}

pub(super) fn config_path(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}.toml"))
}

/// Writes a program's settings and prepares its start.
pub(super) fn server(
    home: &Path,
    name: &str,
    program: &Path,
    config: &str,
    ops: SocketAddr,
    http: &reqwest::Client,
) -> Result<Server, SystemError> {
    let launch = launch(home, name, program, config)?;
    let log = log_path(home, name);
    Ok(Server::new(name, launch, &log, ops, http.clone()))
}

pub(super) fn launch(
    home: &Path,
    name: &str,
    program: &Path,
    config: &str,
) -> Result<Launch, SystemError> {
    let path = config_path(home, name);
    std::fs::write(&path, config)?;
    Ok(Launch::new(name, program, log_path(home, name))
        .args(["run", "--config"])
        .arg(&path))
}

pub(super) fn log_path(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}.log"))
}
