//! ○ The recording at the level of system calls, where block devices are not to be had.

use std::path::Path;
use std::process::{Command, Stdio};

use super::disk::Disk;
use super::trace::{self, Event, Operation, SYSTEM_CALLS};
use super::{PowerCutError, WRITER};
use crate::workdir::WorkDir;

/// sled's main file, whose syncs are left out to see that it is noticed.
const MAIN_FILE: &str = "store/db";

/// The longest text that `strace` shows whole: more than any write.
const TEXT_BYTES_MAX: &str = "1048576";

/// What the writer asked of the system.
pub(super) struct SyscallLog {
    pub(super) events: Vec<Event>,
}

impl SyscallLog {
    /// Records the writer.
    pub(super) fn record(program: &Path) -> Result<Self, PowerCutError> {
        let place = WorkDir::new("powercut")?;
        let (log, home) = (place.path().join("strace.log"), place.path().join("home"));
        std::fs::create_dir(&home)?;
        let status = Command::new("strace")
            .args(["-f", "-y", "-xx", "-s", TEXT_BYTES_MAX])
            .args(["-e", &format!("trace={SYSTEM_CALLS}"), "-o"])
            .arg(&log)
            .arg(program)
            .arg(WRITER)
            .arg(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|error| {
                let remedy = "install it: apt-get install -y strace";
                PowerCutError::Work(format!("strace does not start ({error}); {remedy}"))
            })?;
        if !status.success() {
            return Err(PowerCutError::Work(format!(
                "the writer ended with {status}"
            )));
        }
        let events = trace::read(&std::fs::read_to_string(log)?, &home);
        Ok(Self { events })
    }

    /// The first place at which something is promised.
    pub(super) fn first_promise(&self) -> usize {
        let said = |event: &Event| matches!(event.operation, Operation::Say(_));
        self.events.iter().position(said).unwrap_or(0)
    }

    /// What was said in the first `cut` events.
    pub(super) fn said(&self, cut: usize) -> impl Iterator<Item = &str> {
        self.events[..cut]
            .iter()
            .filter_map(|event| match &event.operation {
                Operation::Say(line) => Some(line.as_str()),
                _ => None,
            })
    }

    /// What the disk knows after the first `cut` events.
    pub(super) fn disk_after(&self, cut: usize, syncs: bool) -> Disk {
        let before = &self.events[..cut];
        let mut disk = Disk::default();
        for event in before {
            let is_sync = matches!(event.operation, Operation::Sync { .. });
            let path = event.operation.path().map(Path::to_path_buf);
            let is_main = path
                .as_deref()
                .is_some_and(|path: &Path| path.ends_with(MAIN_FILE));
            if syncs || !is_main || !is_sync {
                disk.apply(event, before);
            }
        }
        disk
    }
}
