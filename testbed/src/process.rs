//! One child process: started with its log in a file, watched, killed, paused, never left behind.
//!
//! Invariants: a child dies with this process (`PR_SET_PDEATHSIG`, set by `setpriv` of util-linux,
//! so that no unsafe code is needed here); a dropped [`Process`] has ended and been waited for.
//!
//! The kernel sends the death signal when the *thread* that made the child ends. Test harnesses end
//! threads all the time, so all children are made by one thread that lasts as long as the process.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// Log lines quoted when a program does not do what it should.
const TAIL_LINES: usize = 20;
/// How long a process may take to vanish after SIGKILL; more means that the kernel holds it.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    account: Option<String>,
    death_signal: &'static str,
    log: PathBuf,
}

impl Launch {
    /// `program`, whose output is appended to the file `log`; `name` stands in errors.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            account: None,
            death_signal: "KILL",
            log: log.into(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs under another account; only root may.
    #[must_use]
    pub fn account(mut self, account: Option<&str>) -> Self {
        self.account = account.map(ToOwned::to_owned);
        self
    }

    /// The signal that the child gets when this process dies; `KILL` unless set.
    #[must_use]
    pub fn death_signal(mut self, signal: &'static str) -> Self {
        self.death_signal = signal;
        self
    }

    /// The command behind `setpriv`, which replaces itself by the program and so has its id.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(account) = &self.account {
            command.args(["--reuid", account, "--regid", account, "--init-groups"]);
        }
        command.args(["--pdeathsig", self.death_signal, "--"]);
        command.arg(&self.program).args(&self.args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// The log cannot be opened or the process cannot be made.
    pub fn start(&self) -> io::Result<Process> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        let child = spawn_lasting(command)?;
        Ok(Process {
            name: self.name.clone(),
            child,
            log: self.log.clone(),
            exited: None,
        })
    }

    /// Runs it to its end and returns what it printed to standard output.
    ///
    /// # Errors
    /// [`RunError`] with its standard error when it does not succeed.
    pub fn run(&self) -> Result<String, RunError> {
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(self.fault(&format!("{}: {}", output.status, said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it to its end, however it ends.
    ///
    /// # Errors
    /// [`RunError`] when it cannot be started.
    pub fn output(&self) -> Result<Output, RunError> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn_lasting(command)
            .and_then(Child::wait_with_output)
            .map_err(|error| self.fault(&error.to_string()))
    }

    fn fault(&self, problem: &str) -> RunError {
        RunError {
            name: self.name.clone(),
            problem: problem.to_owned(),
        }
    }
}

/// A helper program that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct RunError {
    name: String,
    problem: String,
}

type SpawnOrder = (Command, SyncSender<io::Result<Child>>);

/// Makes the child from the thread that lasts as long as this process (see the module's text).
fn spawn_lasting(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<SpawnOrder>> = OnceLock::new();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    let spawner = SPAWNER.get_or_init(|| {
        // Callers wait for their answer, so the queue holds at most one order per thread.
        let (sender, orders) = sync_channel::<SpawnOrder>(0);
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                if let Err(lost) = answer.send(command.spawn()) {
                    tracing::warn!(child = ?lost.0, "nobody waits for a started process");
                }
            }
        });
        sender
    });
    let (sender, answer) = sync_channel(1);
    spawner
        .send((command, sender))
        .map_err(|error| gone(error.to_string()))?;
    answer.recv().map_err(|error| gone(error.to_string()))?
}

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exited: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that its output goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self
                .child
                .try_wait()
                .expect("nobody else waits for this child");
        }
        self.exited
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_some() {
            return;
        }
        // Not yet waited for, so the number still belongs to this child.
        if let Err(error) = kill_process(pid(self.id()), signal) {
            tracing::warn!(name = self.name, %error, "signal not delivered");
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.wait(KILLED_WITHIN).is_none() {
            tracing::error!(
                name = self.name,
                id = self.id(),
                "still there after SIGKILL"
            );
        }
    }

    /// SIGSTOP: it stands still and holds its sockets open.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT after [`Process::pause`].
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, then waits; how it ended, or `None` when it had to be killed after `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let status = self.wait(limit);
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        clock::wait_until(limit, || self.exit_status())
    }

    /// The last lines of its log, for an error that has to say why.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log file, indented.
#[must_use]
pub fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines
        .get(lines.len().saturating_sub(TAIL_LINES)..)
        .unwrap_or_default();
    let mut quoted = format!("last lines of {}:", log.display());
    for line in last {
        quoted.push_str("\n    ");
        quoted.push_str(line);
    }
    quoted
}

/// The kernel's number as rustix wants it.
pub(crate) fn pid(id: u32) -> Pid {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is positive and fits i32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workdir::WorkDir;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_ends_with_its_value() {
        let directory = WorkDir::new("process").expect("a directory");
        let launch = Launch::new("sleeper", "sleep", directory.path().join("log")).arg("1000");
        let mut process = std::thread::spawn(move || launch.start())
            .join()
            .expect("no panic")
            .expect("started");
        assert_eq!(process.wait(Duration::from_millis(50)), None);
        let entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[test]
    fn a_failed_run_says_what_the_program_said() {
        let launch = Launch::new("shell", "sh", "/dev/null")
            .arg("-c")
            .arg("echo why >&2; exit 3");
        let error = launch.run().expect_err("it fails");
        assert_eq!(error.to_string(), "shell: exit status: 3: why");
    }
}
