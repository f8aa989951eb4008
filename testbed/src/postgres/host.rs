//! What this machine offers to a cluster: a server, an account, a port.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ClusterError;
use crate::process::Launch;

/// Names the directory of the server's programs, where it is not to be the newest of the machine.
pub(super) const BIN_VARIABLE: &str = "VERST_POSTGRES_BIN";
/// Debian's place for servers, one directory per major version.
pub(super) const DEBIAN_SERVERS: &str = "/usr/lib/postgresql";
/// Accounts to run under when this process is root, best first.
pub(super) const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];
/// Linux gives outgoing connections ports from 32,768 on.
const PORTS: Range<u16> = 15_000..32_000;
/// From one draw to the next, so that a large system of another process, with ports side by side, is
/// left at once. Without a factor in common with the number of ports, so all of them come up.
const PORT_STEP: u32 = 7_919;
/// So many taken ports in a row mean that something else is wrong.
const PORT_DRAWS: usize = 100;

/// The directory of the server's programs: the one that was named, else the newest of the machine.
pub(super) fn server_bin() -> Result<PathBuf, ClusterError> {
    match std::env::var_os(BIN_VARIABLE) {
        Some(bin) => named_server(bin.into()),
        None => newest_server().ok_or(ClusterError::NotInstalled),
    }
}

fn named_server(bin: PathBuf) -> Result<PathBuf, ClusterError> {
    if complete(&bin) {
        Ok(bin)
    } else {
        Err(ClusterError::NotThere(bin))
    }
}

fn complete(bin: &Path) -> bool {
    bin.join("initdb").exists() && bin.join("postgres").exists()
}

/// Whether `CREATE EXTENSION` would find it there. A server without `pg_config` is taken to have none.
pub(super) fn has_extension(bin: &Path, name: &str) -> bool {
    let asked = Launch::new("pg_config", bin.join("pg_config"), "/dev/null").arg("--sharedir");
    asked.run().is_ok_and(|directory| {
        let file = format!("extension/{name}.control");
        Path::new(directory.trim()).join(file).exists()
    })
}

fn newest_server() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_SERVERS)
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| complete(bin))
        .max_by_key(|(version, _)| *version)
        .map(|(_, bin)| bin);
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| complete(bin))
    })
}

/// Name, user and group number of the account to run under; `None` when this one will do.
pub(super) fn account() -> Result<Option<(&'static str, u32, u32)>, ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (name == wanted).then_some((uid, gid))
        })
    };
    let found = ACCOUNTS
        .iter()
        .find_map(|name| find(name).map(|(uid, gid)| (*name, uid, gid)));
    found.map(Some).ok_or(ClusterError::NoAccount)
}

/// A port of 127.0.0.1 that nobody has at this moment, from below the range of outgoing
/// connections: while its server is down nobody else gets it by chance. No port is handed out twice
/// by one process, for the first to ask may not listen yet when the second does.
///
/// # Errors
/// No port can be bound.
pub fn free_port() -> io::Result<u16> {
    static DRAWN: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(rand::random::<u16>().into()));
    let count = u32::from(PORTS.end - PORTS.start);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_DRAWS {
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed) % count;
        let place = u16::try_from(drawn * PORT_STEP % count).unwrap_or(0);
        let port = PORTS.start + place;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_directory_must_hold_a_server() {
        let newest = newest_server().expect("a server");
        assert_eq!(named_server(newest.clone()).expect("complete"), newest);
        let error = named_server("/proc".into()).expect_err("no server");
        assert_eq!(
            error.to_string(),
            "VERST_POSTGRES_BIN is /proc, which has no postgres and initdb: name the directory of \
             PostgreSQL's programs, or unset it"
        );
    }

    #[test]
    fn extensions_are_found_by_their_control_files() {
        let bin = server_bin().expect("a server");
        assert!(has_extension(&bin, "plpgsql"));
        assert!(!has_extension(&bin, "no_such_extension"));
        assert!(!has_extension(Path::new("/proc"), "plpgsql"));
    }
}
