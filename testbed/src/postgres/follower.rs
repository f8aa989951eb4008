//! A second server that every commit waits for, and its promotion when the first is lost.
//!
//! Synchronous, so that a promoted standby holds every commit that a client was told of. The one
//! exception is PostgreSQL's own: a session that is ended while it waits for the standby has
//! committed on the primary alone, and others see it.

use super::{Cluster, ClusterError, READY_WITHIN, SUPERUSER};
use crate::clock;
use crate::process::Launch;

impl Cluster {
    /// Makes a standby from a base backup and returns when every commit here waits for it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn synchronous_standby(&self) -> Result<Self, ClusterError> {
        let mut standby = Self::empty(self.options.clone(), self.password.clone())?;
        let (home, port) = (standby.data(), self.port.to_string());
        Launch::new("pg_basebackup", self.bin.join("pg_basebackup"), "/dev/null")
            .account(self.account)
            .env("PGPASSWORD", &self.password)
            .args(["-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER])
            .args([
                "--checkpoint=fast",
                "--wal-method=stream",
                "--no-sync",
                "-D",
            ])
            .arg(&home)
            .run()?;
        std::fs::write(home.join("standby.signal"), "")?;
        let primary = format!(
            "host=127.0.0.1 port={port} user={SUPERUSER} password={}",
            self.password
        );
        standby.come_up(&[
            ("primary_conninfo".to_owned(), primary),
            ("wal_retrieve_retry_interval".to_owned(), "200ms".to_owned()),
        ])?;
        self.commits_wait()?;
        let followed = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let is_followed = || {
            self.sql("postgres", followed)
                .ok()
                .filter(|n| n.trim() == "1")
        };
        match clock::wait_until(READY_WITHIN, is_followed) {
            Some(_) => Ok(standby),
            None => Err(ClusterError::NotFollowed(standby.log_tail())),
        }
    }

    /// A standby becomes a primary that nobody follows yet.
    ///
    /// # Errors
    /// The server's.
    pub fn take_over(&self) -> Result<(), ClusterError> {
        self.sql("postgres", "SELECT pg_promote(true, 60)")
            .map(drop)
    }

    /// Starts the server again if it has ended by itself, as it does when its disk is full.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn revive(&mut self) -> Result<(), ClusterError> {
        let lives = self
            .server
            .as_mut()
            .is_some_and(|server| server.exit_status().is_none());
        if lives { Ok(()) } else { self.restart() }
    }

    /// From now on no commit is answered before a standby has it.
    fn commits_wait(&self) -> Result<(), ClusterError> {
        let order = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        self.sql("postgres", order)?;
        self.sql("postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// The last lines of the server's log.
    fn log_tail(&self) -> String {
        crate::process::tail(&self.directory.path().join("postgres.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Options;

    #[test]
    fn a_promoted_standby_holds_every_commit_and_is_another_timeline() {
        let mut primary = Cluster::start(Options::default()).expect("a cluster");
        primary.database("kept").expect("a database");
        let standby = primary.synchronous_standby().expect("a standby");
        primary
            .sql("kept", "CREATE TABLE t AS SELECT 42 AS answer")
            .expect("committed");
        let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
        let before = primary.sql("kept", timeline).expect("answer");
        primary.stop_immediate();
        standby.take_over().expect("promoted");
        let answer = standby.sql("kept", "SELECT answer FROM t").expect("answer");
        assert_eq!(answer.trim(), "42");
        assert!(standby.sql("kept", timeline).expect("answer") > before);
        let next = standby.synchronous_standby().expect("the next standby");
        standby
            .sql("kept", "UPDATE t SET answer = 43")
            .expect("committed");
        drop(standby);
        next.take_over().expect("promoted");
        let answer = next.sql("kept", "SELECT answer FROM t").expect("answer");
        assert_eq!(answer.trim(), "43");
    }
}
