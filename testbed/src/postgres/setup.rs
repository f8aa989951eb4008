//! A cluster's data directory and its settings.

use std::fmt::Write as _;
use std::io;

use super::host::{free_port, has_extension};
use super::{Cluster, ClusterError, SUPERUSER, TIMESCALE};
use crate::process::Launch;

impl Cluster {
    pub(super) fn initialise(&self) -> Result<(), ClusterError> {
        let password_file = self.directory.path().join("socket/password");
        std::fs::write(&password_file, &self.password)?;
        Launch::new("initdb", self.bin.join("initdb"), "/dev/null")
            .account(self.account)
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "-U",
                SUPERUSER,
            ])
            .args([
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--pwfile",
            ])
            .arg(&password_file)
            .arg("-D")
            .arg(self.data())
            .run()?;
        std::fs::remove_file(&password_file)?;
        Ok(())
    }

    /// Draws a free port and writes the settings.
    pub(super) fn configure(&mut self, further: &[(String, String)]) -> Result<(), ClusterError> {
        self.port = free_port()?;
        let options = &self.options;
        let on_off = if options.fsync { "on" } else { "off" };
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = {on_off}\nfull_page_writes = {on_off}\n\
             dynamic_shared_memory_type = mmap\nshared_buffers = 128MB\nmax_connections = 200\n\
             max_wal_size = 2GB\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n\
             logging_collector = off\nlog_line_prefix = '%m [%p] '\n",
            self.port,
            self.directory.path().join("socket").display(),
        );
        if has_extension(&self.bin, TIMESCALE) {
            text.push_str("shared_preload_libraries = 'timescaledb'\n");
            text.push_str("timescaledb.telemetry_level = 'off'\n");
        }
        for (name, value) in options.settings.iter().chain(further) {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''")).map_err(io::Error::other)?;
        }
        // Read last, so that it wins over the file that initdb wrote.
        std::fs::write(self.data().join("postgresql.auto.conf"), text)?;
        Ok(())
    }
}
