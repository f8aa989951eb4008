//! A private PostgreSQL cluster in a temporary directory, for tests and for the demo.
//!
//! The newest server of the machine is used, or the one whose programs `VERST_POSTGRES_BIN` names;
//! where it has TimescaleDB, that is loaded, with its telemetry off. Clients come by a random port of
//! the loopback address with a random password, or by a socket inside the directory. PostgreSQL refuses
//! to run as root; then it runs under an ordinary account (`postgres`, else `nobody`).
//!
//! Invariants: it never touches the system's own clusters; it ends with this process (SIGQUIT when
//! this process dies, see [`crate::process`]) and its directory goes with it; all of its shared
//! memory lies in the directory, but for a segment of 56 bytes that is removed too.
//!
//! All calls block the calling thread (a start takes about half a second).

mod copies;
mod error;
mod follower;
mod host;
mod running;
mod setup;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

pub use copies::{Backup, Standby};
pub use error::ClusterError;
pub use host::free_port;
use host::{account, server_bin};
use running::{children_of, is_ready, shared_segment};

use crate::clock;
use crate::process::{Launch, Process, pid};
use crate::small_disk::SmallDisk;
use crate::workdir::WorkDir;

/// The superuser inside the cluster.
const SUPERUSER: &str = "postgres";
/// A start after kill -9 replays its log first.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a stop with a checkpoint may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// Another program may take the free port before the server does.
const PORT_ATTEMPTS: usize = 3;

/// It works only when the server loads it at its start.
const TIMESCALE: &str = "timescaledb";

/// How the cluster behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// `false` skips `fsync`: faster, right where no crash of the machine is played.
    pub fsync: bool,
    /// Further lines of `postgresql.conf`, name and value.
    pub settings: Vec<(String, String)>,
    /// A small disk of its own, of so many bytes.
    pub disk_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: true,
            settings: Vec::new(),
            disk_bytes: None,
        }
    }
}

impl Options {
    /// Without `fsync`, for tests in which only processes die.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            fsync: false,
            ..Self::default()
        }
    }
}

/// A running private cluster; dropped = stopped and removed.
#[derive(Debug)]
pub struct Cluster {
    server: Option<Process>,
    launch: Launch,
    bin: PathBuf,
    account: Option<&'static str>,
    port: u16,
    password: String,
    options: Options,
    /// Where the data is, when it has a disk of its own. Gone before the directory.
    pub disk: Option<SmallDisk>,
    directory: WorkDir,
}

impl Cluster {
    /// Makes and starts a cluster, and waits until it takes connections.
    ///
    /// # Errors
    /// [`ClusterError`]; the text quotes the server's log.
    pub fn start(options: Options) -> Result<Self, ClusterError> {
        let mut cluster = Self::empty(options, format!("{:032x}", rand::random::<u128>()))?;
        cluster.initialise()?;
        cluster.come_up(&[])?;
        Ok(cluster)
    }

    /// A place for a cluster without data.
    fn empty(options: Options, password: String) -> Result<Self, ClusterError> {
        let bin = server_bin()?;
        let account = account()?;
        let directory = WorkDir::new("postgres")?;
        let home = directory.path();
        let owner = account.map(|(_, uid, gid)| (uid, gid));
        for name in ["data", "socket"] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(home.join(name))?;
            if let Some((uid, gid)) = owner {
                chown(home.join(name), Some(uid), Some(gid))?;
            }
        }
        let disk = match options.disk_bytes {
            Some(bytes) => Some(SmallDisk::mount(&home.join("data"), bytes, owner)?),
            None => None,
        };
        let account = account.map(|(name, ..)| name);
        let log = home.join("postgres.log");
        let launch = Launch::new("postgres", bin.join("postgres"), &log)
            .account(account)
            .death_signal("QUIT")
            .arg("-D")
            .arg(home.join("data"));
        Ok(Self {
            server: None,
            launch,
            bin,
            account,
            port: 0,
            password,
            options,
            disk,
            directory,
        })
    }

    /// Draws a port and starts on what data there is, with further settings.
    fn come_up(&mut self, settings: &[(String, String)]) -> Result<(), ClusterError> {
        let mut attempt = 1;
        loop {
            self.configure(settings)?;
            match self.run() {
                Err(ClusterError::NotReady(said))
                    if attempt < PORT_ATTEMPTS && said.contains("could not bind") =>
                {
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// One cluster for the whole process, without `fsync`: the quickest way to an empty database.
    ///
    /// # Panics
    /// When it cannot be started: a test that needs it has failed then.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| match Self::start(Options::fast()) {
            Ok(cluster) => cluster,
            Err(error) => panic!("{error}"),
        })
    }

    /// For a client library or `psql`: the superuser's URL of the database `postgres`.
    #[must_use]
    pub fn connection_string(&self) -> String {
        self.connection_string_of("postgres")
    }

    /// The superuser's URL of any database of the cluster.
    #[must_use]
    pub fn connection_string_of(&self, database: &str) -> String {
        self.connection_string_through(self.port, database)
    }

    /// The same over a link that listens on another port.
    #[must_use]
    pub fn connection_string_through(&self, port: u16, database: &str) -> String {
        let password = &self.password;
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// The name is unusable or taken.
    pub fn database(&self, name: &str) -> Result<String, ClusterError> {
        let usable = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(usable) {
            return Err(ClusterError::BadName(name.to_owned()));
        }
        self.sql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0"),
        )?;
        Ok(self.connection_string_of(name))
    }

    /// Makes an empty database with a name of its own and returns its URL.
    ///
    /// # Errors
    /// The server refuses.
    pub fn fresh_database(&self) -> Result<String, ClusterError> {
        self.database(&format!("test_{:016x}", rand::random::<u64>()))
    }

    /// Runs SQL as the superuser through `psql` and returns what it printed, unaligned, rows only.
    ///
    /// # Errors
    /// With the server's message.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, ClusterError> {
        let launch = Launch::new("psql", self.bin.join("psql"), "/dev/null")
            .env("PGPASSWORD", &self.password)
            .arg("-XAtq")
            .args(["-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", SUPERUSER])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql]);
        Ok(launch.run()?)
    }

    /// Whether the server offers TimescaleDB, by its own word.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn offers_timescale(&self) -> Result<bool, ClusterError> {
        let sql =
            format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{TIMESCALE}'");
        Ok(self.sql("postgres", &sql)?.trim() == "1")
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same as an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Where `psql` and its like are.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where its log is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id of the running server.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.server.as_ref().map(Process::id)
    }

    /// SIGKILL to the server and all of its backends at once, as when the machine loses it.
    pub fn stop_immediate(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        // Standing still it makes no new backends while the old ones are counted.
        server.pause();
        let backends = children_of(server.id());
        server.kill();
        for backend in &backends {
            if let Err(error) = kill_process(pid(*backend), Signal::KILL) {
                // It saw the end of its parent and left by itself.
                tracing::debug!(backend, %error, "backend not killed");
            }
        }
        // The next start must find nobody attached to the old shared memory.
        let gone = |id: &u32| !Path::new(&format!("/proc/{id}/stat")).exists();
        if clock::wait_until(STOPPED_WITHIN, || backends.iter().all(gone).then_some(())).is_none() {
            tracing::error!(?backends, "backends are still there after SIGKILL");
        }
    }

    /// Starts again on the same data and port; a running server is stopped in order before.
    ///
    /// # Errors
    /// It does not get ready; the text quotes its log.
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop();
        self.run()
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // "Fast shutdown": ends sessions, writes a checkpoint.
            server.signal(Signal::INT);
            if server.wait(STOPPED_WITHIN).is_none() {
                tracing::warn!("PostgreSQL did not stop in order");
                self.server = Some(server);
                self.stop_immediate();
            }
        }
    }

    /// `SIGSTOP` to the server and its backends: connections stay open and nothing answers.
    pub fn pause(&mut self) {
        self.signal_all(Signal::STOP);
    }

    /// `SIGCONT` after [`Cluster::pause`].
    pub fn resume(&mut self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&mut self, signal: Signal) {
        let Some(server) = &mut self.server else {
            return;
        };
        server.signal(signal);
        for backend in children_of(server.id()) {
            if let Err(error) = kill_process(pid(backend), signal) {
                tracing::debug!(backend, %error, "backend has just ended");
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A server that was killed leaves a segment of shared memory behind, which its status file names.
    fn remove_segment(&self) {
        if let Some(segment) = shared_segment(&self.data().join("postmaster.pid")) {
            let removal = Launch::new("ipcrm", "ipcrm", "/dev/null")
                .args(["-m", &segment])
                .run();
            if let Err(error) = removal {
                tracing::debug!(%error, "shared memory segment was gone already");
            }
        }
    }

    fn run(&mut self) -> Result<(), ClusterError> {
        let mut server = self.launch.start()?;
        let status_file = self.data().join("postmaster.pid");
        let ready = clock::wait_until(READY_WITHIN, || {
            if server.exit_status().is_some() {
                return Some(false);
            }
            is_ready(&status_file, server.id()).then_some(true)
        });
        if ready != Some(true) {
            return Err(ClusterError::NotReady(server.log_tail()));
        }
        self.server = Some(server);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.resume();
            // "Immediate shutdown": the data is about to be removed anyway.
            server.signal(Signal::QUIT);
            if server.wait(STOPPED_WITHIN).is_none() {
                self.server = Some(server);
                self.stop_immediate();
            }
        }
        self.remove_segment();
    }
}

#[cfg(test)]
mod tests;
