//! Copies of a cluster: backups that it is put back to, and standbys that take its place.
//!
//! A cluster that is put back to a base backup without an archive replays what the backup holds and
//! goes on under the same system identifier and timeline: nothing inside says that later commits are
//! gone. A promoted standby begins a new timeline.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::host::{account, free_port};
use super::running::is_ready;
use super::{Cluster, ClusterError, READY_WITHIN, STOPPED_WITHIN, SUPERUSER};
use crate::clock;
use crate::process::{Launch, Process};

/// The data of a cluster as it was; gone with the cluster.
#[derive(Debug)]
pub struct Backup {
    data: PathBuf,
}

/// A replica that follows the cluster asynchronously; dropped = ended.
#[derive(Debug)]
pub struct Standby {
    server: Option<Process>,
    data: PathBuf,
}

impl Standby {
    /// Ends it in order: from here on it follows no more.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(Signal::INT);
            if server.wait(STOPPED_WITHIN).is_none() {
                tracing::warn!("the standby did not stop in order");
            }
        }
    }
}

impl Cluster {
    /// Copies the running cluster, as a nightly job does.
    ///
    /// # Errors
    /// The server's tool fails.
    pub fn backup(&self) -> Result<Backup, ClusterError> {
        let data = self.copy(&[])?;
        Ok(Backup { data })
    }

    /// Puts the cluster back to a backup, on the same port: what was committed since is gone.
    ///
    /// # Errors
    /// It does not get ready; the text quotes its log.
    pub fn restore(&mut self, backup: Backup) -> Result<(), ClusterError> {
        self.stop();
        std::fs::remove_dir_all(self.data())?;
        std::fs::rename(backup.data, self.data())?;
        self.run()
    }

    /// Starts a replica of the running cluster and waits until it follows.
    ///
    /// # Errors
    /// It does not get ready; the text quotes its log.
    pub fn standby(&self) -> Result<Standby, ClusterError> {
        let data = self.copy(&["-R"])?;
        configure(&data, &format!("port = {}", free_port()?))?;
        let log = self.directory.path().join("standby.log");
        let launch = Launch::new("standby", self.bin.join("postgres"), &log)
            .account(self.account)
            .death_signal("QUIT")
            .arg("-D")
            .arg(&data);
        let mut server = launch.start()?;
        let status_file = data.join("postmaster.pid");
        let ready = clock::wait_until(READY_WITHIN, || {
            let ended = server.exit_status().is_some();
            (ended || is_ready(&status_file, server.id())).then_some(!ended)
        });
        if ready != Some(true) {
            return Err(ClusterError::NotReady(server.log_tail()));
        }
        let follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        clock::wait_until(READY_WITHIN, || {
            let count = self.sql("postgres", follows).ok()?;
            (count.trim() == "1").then_some(())
        })
        .ok_or_else(|| ClusterError::NotReady(server.log_tail()))?;
        let server = Some(server);
        Ok(Standby { server, data })
    }

    /// The machine of the cluster is lost, and a standby takes its place, on the same port: what was
    /// committed after it had stopped following is gone.
    ///
    /// # Errors
    /// It does not get ready; the text quotes its log.
    pub fn promote(&mut self, mut standby: Standby) -> Result<(), ClusterError> {
        standby.stop();
        self.stop_immediate();
        self.remove_segment();
        std::fs::remove_dir_all(self.data())?;
        std::fs::rename(&standby.data, self.data())?;
        let alone = format!("port = {}\nprimary_conninfo = ''", self.port);
        configure(&self.data(), &alone)?;
        self.run()?;
        Launch::new("pg_ctl", self.bin.join("pg_ctl"), "/dev/null")
            .account(self.account)
            .args(["promote", "--wait", "-D"])
            .arg(self.data())
            .run()?;
        Ok(())
    }

    fn copy(&self, further: &[&str]) -> Result<PathBuf, ClusterError> {
        let name = format!("copy-{:08x}", rand::random::<u32>());
        let data = self.directory.path().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&data)?;
        if let Some((_, uid, gid)) = account()? {
            chown(&data, Some(uid), Some(gid))?;
        }
        Launch::new("pg_basebackup", self.bin.join("pg_basebackup"), "/dev/null")
            .account(self.account)
            .env("PGPASSWORD", &self.password)
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .args(["-h", "127.0.0.1", "-U", SUPERUSER])
            .args(["-p", &self.port.to_string()])
            .args(further)
            .arg("-D")
            .arg(&data)
            .run()?;
        Ok(data)
    }
}

/// Adds settings that win over those before them.
fn configure(data: &Path, settings: &str) -> Result<(), ClusterError> {
    let file = data.join("postgresql.auto.conf");
    let mut file = OpenOptions::new().append(true).open(file)?;
    Ok(writeln!(file, "{settings}")?)
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn numbers(cluster: &Cluster) -> String {
        let sql = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t";
        let text = cluster.sql("kept", sql).expect("answer");
        text.trim().to_owned()
    }

    fn timeline(cluster: &Cluster) -> String {
        let sql = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
        let text = cluster.sql("kept", sql).expect("answer");
        text.trim().to_owned()
    }

    #[test]
    fn a_cluster_is_put_back_in_time_with_and_without_a_new_timeline() {
        let mut cluster = Cluster::start(Options::fast()).expect("a cluster");
        cluster.database("kept").expect("a database");
        let sql = |cluster: &Cluster, sql| cluster.sql("kept", sql).expect("committed");
        sql(&cluster, "CREATE TABLE t AS SELECT 1 AS n");
        let backup = cluster.backup().expect("a backup");
        sql(&cluster, "INSERT INTO t VALUES (2)");
        let before = timeline(&cluster);
        cluster.restore(backup).expect("restored");
        assert_eq!(
            (numbers(&cluster), timeline(&cluster)),
            ("1".into(), before.clone())
        );

        sql(&cluster, "INSERT INTO t VALUES (3)");
        let mut standby = cluster.standby().expect("a standby");
        standby.stop();
        sql(&cluster, "INSERT INTO t VALUES (4)");
        cluster.promote(standby).expect("promoted");
        assert_eq!(numbers(&cluster), "1 3");
        assert_ne!(timeline(&cluster), before);
    }
}
