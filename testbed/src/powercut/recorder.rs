//! ○ A disk in user space that remembers: one file of a FUSE file system, on which the kernel puts a
//! loop device and ext4. Every write and every flush of the loop device arrives here, one after the
//! other, in the order in which a disk would be told.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::PowerCutError;
use super::blocks::run;
use super::fuse::{Asked, DISK, REQUEST_BYTES_MAX, Request};
use super::tape::{Event, Tape};

/// The kernel's word for "unmounted".
const ENODEV: i32 = 19;

/// The disk as it is, and everything that happened to it.
#[derive(Debug)]
struct Platter {
    now: Vec<u8>,
    tape: Tape,
}

/// A disk that is being recorded.
#[derive(Debug)]
pub(super) struct Recorder {
    platter: Arc<Mutex<Platter>>,
    server: JoinHandle<std::io::Result<()>>,
    directory: PathBuf,
}

impl Recorder {
    /// A disk that holds `before`, as the file `disk` in the directory.
    pub(super) fn start(directory: &Path, before: Vec<u8>) -> Result<Self, PowerCutError> {
        let platter = Arc::new(Mutex::new(Platter {
            now: before.clone(),
            tape: Tape {
                before,
                events: Vec::new(),
            },
        }));
        let kernel = File::options().read(true).write(true).open("/dev/fuse")?;
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o"]);
        mount.arg("fd=0,rootmode=40000,user_id=0,group_id=0,max_read=131072");
        mount.arg("verst-powercut").arg(directory);
        mount.stdin(kernel.try_clone()?);
        // The kernel's first request waits for nobody; it is answered below.
        run(&mut mount)?;
        let served = Arc::clone(&platter);
        Ok(Self {
            platter,
            server: std::thread::spawn(move || serve(kernel, &served)),
            directory: directory.to_owned(),
        })
    }

    /// Where the disk is.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(DISK)
    }

    /// Takes down what the writer said.
    pub(super) fn note(&self, line: String) {
        lock(&self.platter).tape.events.push(Event::Said(line));
    }

    /// Ends the recording; nothing may be mounted on the disk any more.
    pub(super) fn finish(self) -> Result<Tape, PowerCutError> {
        run(Command::new("umount").arg(&self.directory))?;
        let ended = self.server.join();
        ended.map_err(|_| PowerCutError::Work("the recorder panicked".to_owned()))??;
        Ok(std::mem::take(&mut lock(&self.platter).tape))
    }
}

fn lock(platter: &Mutex<Platter>) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the kernel until the file system is unmounted.
fn serve(mut kernel: File, platter: &Mutex<Platter>) -> std::io::Result<()> {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let bytes = match kernel.read(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.raw_os_error() == Some(ENODEV) => return Ok(()),
            // A request that was taken back before it was read.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut platter = lock(platter);
        let Some(request) = Request::read(&buffer[..bytes], platter.now.len()) else {
            continue;
        };
        let mut read = Vec::new();
        match request.asked {
            Asked::Told => continue,
            Asked::Answered => {}
            Asked::Read { at, count } => {
                let from = at.min(platter.now.len());
                let to = (from + count).min(platter.now.len());
                read = platter.now[from..to].to_vec();
            }
            Asked::Write { at, bytes } => {
                // The loop device knows how large its file is.
                if let Some(place) = platter.now.get_mut(at..at + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
                let bytes = bytes.to_vec();
                platter.tape.events.push(Event::Write { at, bytes });
            }
            Asked::Sync => platter.tape.events.push(Event::Flush),
        }
        kernel.write_all(&request.answer(&read))?;
    }
}
