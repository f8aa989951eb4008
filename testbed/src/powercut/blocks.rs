//! ○ The recording at block level: a real ext4 on a loop device on the recorded disk.
//!
//! Needs root, loop devices and FUSE, and mounts that nobody else sees ([`own_mounts`]): they vanish
//! with this process, whatever ends it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rand_chacha::ChaCha8Rng;

use super::recorder::Recorder;
use super::tape::{Event, Tape};
use super::{PowerCutError, WRITER};
use crate::workdir::WorkDir;

/// Bytes of the disk: small, for each cut makes it anew.
const DISK_BYTES: u64 = 24 * 1024 * 1024;

/// Set in a process that has mounts of its own.
const OWN_MOUNTS: &str = "VERST_POWERCUT_OWN_MOUNTS";

/// The programs that this needs.
const PROGRAMS: [&str; 4] = ["unshare", "mount", "umount", "mkfs.ext4"];

/// Why this machine cannot do it; nothing when it can.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            return Some(format!("no {device}"));
        }
    }
    let is_there = |program: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path);
        folders.any(|folder| folder.join(program).is_file())
    };
    let program = PROGRAMS.iter().find(|program| !is_there(program))?;
    Some(format!("no {program}"))
}

/// Starts this program again in a namespace of mounts of its own, in the place of this process;
/// returns where that was done already.
///
/// # Errors
/// It cannot be started.
pub fn own_mounts() -> std::io::Result<()> {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return Ok(());
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private", "--"]);
    again.arg(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(OWN_MOUNTS, "1");
    Err(again.exec())
}

/// A file system that is mounted until this is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// The image of an ext4, with the kernel's replay of its journal.
    fn image(image: &Path, place: &'a Path) -> Result<Self, PowerCutError> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,noatime"])
            .args([image, place]))?;
        Ok(Self(place))
    }

    /// Takes it down, everything written.
    fn end(self) -> Result<(), PowerCutError> {
        let place = self.0;
        std::mem::forget(self);
        run(Command::new("umount").arg(place))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.0)) {
            tracing::warn!(%error, "file system stays mounted until this process ends");
        }
    }
}

pub(super) fn run(command: &mut Command) -> Result<(), PowerCutError> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().display();
    Err(PowerCutError::Work(format!(
        "{program}: {}: {}",
        output.status,
        said.trim()
    )))
}

/// Records the writer; without syncs its `fdatasync` does nothing.
pub(super) fn record(program: &Path, syncs: bool) -> Result<Tape, PowerCutError> {
    let place = WorkDir::new("powercut")?;
    let [image, disk, root] = ["image", "disk", "root"].map(|name| place.path().join(name));
    std::fs::create_dir(&disk)?;
    std::fs::create_dir(&root)?;
    std::fs::File::create(&image)?.set_len(DISK_BYTES)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096"])
        .arg(&image))?;
    let recorder = Recorder::start(&disk, std::fs::read(&image)?)?;
    let mounted = Mounted::image(&recorder.path(), &root)?;
    let mut writer = if syncs {
        Command::new(program)
    } else {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
        strace
            .args(["-e", "inject=fdatasync:retval=0"])
            .arg(program);
        strace
    };
    let mut child = writer
        .arg(WRITER)
        .arg(&root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| PowerCutError::Work(format!("the writer does not start: {error}")))?;
    let (Some(said), Some(mut heard)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(PowerCutError::Work("the writer has no pipes".to_owned()));
    };
    for line in BufReader::new(said).lines() {
        recorder.note(line?);
        heard.write_all(b"\n")?;
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(PowerCutError::Work(format!(
            "the writer ended with {status}"
        )));
    }
    mounted.end()?;
    let mut tape = recorder.finish()?;
    // What the file system wrote when it was taken down is no power cut.
    let last = tape
        .events
        .iter()
        .rposition(|event| matches!(event, Event::Said(_)));
    tape.events.truncate(last.map_or(0, |place| place + 1));
    Ok(tape)
}

/// Lays out the disk after a cut and works on what ext4 makes of it.
pub(super) fn after_cut<T>(
    tape: &Tape,
    cut: usize,
    rng: &mut ChaCha8Rng,
    work: impl FnOnce(&Path) -> Result<T, PowerCutError>,
) -> Result<T, PowerCutError> {
    let place = tempfile::tempdir()?;
    let [image, root] = ["image", "root"].map(|name| place.path().join(name));
    std::fs::create_dir(&root)?;
    std::fs::write(&image, tape.disk_after(cut, rng))?;
    let mounted = Mounted::image(&image, &root)?;
    let result = work(&root);
    mounted.end()?;
    result
}
