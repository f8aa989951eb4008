//! Getting a store open, whatever the last power cut left of it.
//!
//! 1. One process: the file `lock` is locked for as long as the agent runs.
//! 2. The file `opening` counts attempts; it is removed after a success. So a store that kills the
//!    process is recognised, too.
//! 3. sled's half-written snapshot (`snap.*.generating`) is deleted: with one, opening fails.
//! 4. The store is opened and read under a watchdog, panics contained. When that fails, all of
//!    sled's snapshots are deleted, which is safe, and it is tried once more.
//! 5. On the second failure, on a time-out, and on the third attempt in a row the store is moved
//!    aside whole, to `quarantine-…`, and a new one begins. The newest of those is kept, and older ones
//!    as long as all of them together take no more than their part of the quota.
//!
//! 6. A store that was being rebuilt when the power went (`store.new`, `store.old`) is as it was
//!    before.
//! 7. A store that was begun for another device is not opened; see `foreign`.
//!
//! A full disk or missing rights are not damage: then opening fails, and the store stays.
//! So the agent never loops over a broken store, and never deletes one that it could not read.

mod foreign;
pub(super) mod places;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use proto::DeviceId;
use service::panics::contain;
use service::private_file::folder_of;

use super::medium::StoreError;
use super::store::sync_directory;
use super::{ForeignStore, OpenError};

const LOCK: &str = "lock";
const ATTEMPTS: &str = "opening";
const STORE: &str = "store";
/// A smaller store in the making.
const STORE_NEW: &str = "store.new";
/// The store that a smaller one with the same content takes the place of.
const STORE_OLD: &str = "store.old";
const QUARANTINE: &str = "quarantine-";

/// Passages are nobody else's to read.
const DIRECTORY_MODE: u32 = 0o700;

/// Attempts in a row that may end without success or failure: the process died.
const DEATHS_MAX: u32 = 2;

/// What reading an opened store can say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LoadError {
    /// Stop: an agent with another format wrote it.
    #[error("format {0} is of another agent")]
    Format(u32),
    /// Damaged, or unreadable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something is in it that this format does not have.
    #[error("record {0} cannot be read: {1}")]
    Record(String, String),
    /// It did not come to an end.
    #[error("did not open within {0:?}")]
    TimedOut(Duration),
    /// Opening it killed the process again and again.
    #[error("{0} attempts to open it killed the process")]
    Deadly(u32),
}

/// The directory of the buffer, ours alone.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    /// Whose passages it holds.
    device: DeviceId,
    /// Holds the lock until it is dropped.
    _lock: File,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Opened<T> {
    pub(super) home: Home,
    pub(super) loaded: T,
    /// Stores that could not be opened, the newest last.
    pub(super) quarantined: Vec<PathBuf>,
    /// Whether the newest of them was moved there just now.
    pub(super) moved_aside: bool,
    /// Stores of other devices, the newest last.
    pub(super) foreign: Vec<ForeignStore>,
}

impl Home {
    /// Makes the directory if need be, locks it, and moves aside what in it is of another device.
    pub(super) fn enter(directory: &Path, device: &DeviceId) -> Result<Self, OpenError> {
        let home = Self::lock(directory, device)?;
        home.undo_rebuild().map_err(|source| OpenError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        home.set_foreign_aside()?;
        Ok(home)
    }

    fn lock(directory: &Path, device: &DeviceId) -> Result<Self, OpenError> {
        let fault = |source| OpenError::Directory {
            path: directory.to_owned(),
            source,
        };
        make_durably(directory).map_err(fault)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LOCK))
            .map_err(fault)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                device: device.clone(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse {
                path: directory.to_owned(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(fault(source)),
        }
    }

    /// Where sled's files are.
    pub(super) fn store(&self) -> PathBuf {
        self.directory.join(STORE)
    }

    /// Opens the store with `load`, which gets the directory of sled's files.
    pub(super) fn open<T: Send + 'static>(
        self,
        timeout: Duration,
        aside_bytes_max: u64,
        load: fn(&Path) -> Result<T, LoadError>,
    ) -> Result<Opened<T>, OpenError> {
        let fault = |source| OpenError::Directory {
            path: self.directory.clone(),
            source,
        };
        let deaths = self.deaths();
        self.note_attempt(deaths + 1).map_err(fault)?;
        let first = if deaths >= DEATHS_MAX {
            Err(LoadError::Deadly(deaths))
        } else {
            self.try_twice(timeout, load)
        };
        let moved_aside = first.is_err();
        let loaded = match first {
            Ok(loaded) => loaded,
            Err(LoadError::Format(found)) => {
                self.forget_attempts().map_err(fault)?;
                let known = super::records::FORMAT;
                let path = self.store();
                return Err(if found > known {
                    OpenError::Newer { found, known }
                } else {
                    OpenError::Older { path, found, known }
                });
            }
            Err(LoadError::Store(error @ (StoreError::NoSpace | StoreError::Denied(_)))) => {
                self.forget_attempts().map_err(fault)?;
                let problem = error.to_string();
                return Err(OpenError::Store {
                    path: self.directory.clone(),
                    problem,
                });
            }
            Err(error) => {
                tracing::error!(
                    directory = %self.store().display(), %error,
                    "store cannot be opened; it is moved aside and a new one begins"
                );
                self.quarantine(aside_bytes_max).map_err(fault)?;
                watched(&self.store(), timeout, load).map_err(|error| OpenError::Store {
                    path: self.directory.clone(),
                    problem: error.to_string(),
                })?
            }
        };
        sync_directory(&self.directory).map_err(fault)?;
        self.forget_attempts().map_err(fault)?;
        // Before it takes the first passage.
        self.name(&self.store()).map_err(fault)?;
        let quarantined = self.quarantined().map_err(fault)?;
        let foreign = self.foreign().map_err(fault)?;
        Ok(Opened {
            home: self,
            loaded,
            quarantined,
            moved_aside,
            foreign,
        })
    }

    /// Where a store that is to replace this one is made.
    pub(super) fn store_new(&self) -> PathBuf {
        self.directory.join(STORE_NEW)
    }

    /// Puts the new store, closed and synced, in the place of the old one.
    pub(super) fn replace_store(&self) -> io::Result<()> {
        self.name(&self.store_new())?;
        fs::rename(self.store(), self.directory.join(STORE_OLD))?;
        fs::rename(self.store_new(), self.store())?;
        sync_directory(&self.directory)?;
        remove_tree(&self.directory.join(STORE_OLD))
    }

    /// Nothing was written while a store was rebuilt: the old one, where it still is, is complete.
    fn undo_rebuild(&self) -> io::Result<()> {
        let old = self.directory.join(STORE_OLD);
        if old.exists() && !self.store().exists() {
            fs::rename(&old, self.store())?;
            sync_directory(&self.directory)?;
        }
        remove_tree(&old)?;
        remove_tree(&self.store_new())
    }

    fn try_twice<T: Send + 'static>(
        &self,
        timeout: Duration,
        load: fn(&Path) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let store = self.store();
        delete_snapshots(&store, |name| name.ends_with(".generating"));
        match watched(&store, timeout, load) {
            Err(LoadError::Store(StoreError::Broken(error))) => {
                tracing::warn!(%error, "store does not open; trying without its snapshots");
                delete_snapshots(&store, |_| true);
                watched(&store, timeout, load)
            }
            other => other,
        }
    }

    fn deaths(&self) -> u32 {
        fs::read_to_string(self.directory.join(ATTEMPTS))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    fn note_attempt(&self, number: u32) -> io::Result<()> {
        let mut file = File::create(self.directory.join(ATTEMPTS))?;
        file.write_all(number.to_string().as_bytes())?;
        file.sync_all()?;
        sync_directory(&self.directory)
    }

    fn forget_attempts(&self) -> io::Result<()> {
        fs::remove_file(self.directory.join(ATTEMPTS))?;
        sync_directory(&self.directory)
    }

    /// Moves the store aside, and deletes the oldest of those moved aside before where they take too
    /// much.
    fn quarantine(&self, bytes_max: u64) -> io::Result<()> {
        let before = numbered(&self.directory, QUARANTINE)?;
        let last = before.last().map_or(0, |(number, _)| *number);
        let place = self.directory.join(format!("{QUARANTINE}{}", last + 1));
        match fs::rename(self.store(), &place) {
            // By a start that came no further.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        sync_directory(&self.directory)?;
        let mut bytes = directory_bytes(&place);
        for (_, store) in before.iter().rev() {
            bytes = bytes.saturating_add(directory_bytes(store));
            if bytes > bytes_max {
                tracing::error!(store = %store.display(), "damaged store is deleted: a newer one takes its place");
                fs::remove_dir_all(store)?;
            }
        }
        Ok(())
    }

    /// Stores that were moved aside, the newest last.
    fn quarantined(&self) -> io::Result<Vec<PathBuf>> {
        let found = numbered(&self.directory, QUARANTINE)?.into_iter();
        Ok(found.map(|(_, store)| store).collect())
    }
}

/// What has a name of this kind in a directory, in the order of its numbers.
fn numbered(directory: &Path, kind: &str) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(kind)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Bytes that the files below a directory take.
pub(super) fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let entries = entries.filter_map(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    bytes.sum()
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens on a thread of its own and waits for at most `timeout`. A thread that hangs is left behind
/// with the files that it has open.
fn watched<T: Send + 'static>(
    store: &Path,
    timeout: Duration,
    load: fn(&Path) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let broken = |problem: String| LoadError::Store(StoreError::Broken(problem));
    let (answer, answered) = mpsc::sync_channel(1);
    let path = store.to_owned();
    let started = std::thread::Builder::new()
        .name("buffer-open".to_owned())
        .spawn(move || {
            let outcome = contain(|| load(&path));
            // Nobody waits any more after the time-out: then the store is dropped with the channel.
            answer.send(outcome).ok();
        });
    started.map_err(|error| broken(format!("cannot start its thread: {error}")))?;
    match answered.recv_timeout(timeout) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(broken(panic.message)),
        Err(_) => Err(LoadError::TimedOut(timeout)),
    }
}

fn delete_snapshots(store: &Path, wanted: fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(store) else {
        return;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("snap.") && wanted(name) {
            // What cannot be deleted makes the opening fail, which is dealt with.
            fs::remove_file(&path).ok();
        }
    }
}

/// Creates a directory with its parents for this account alone, every new name made durable.
fn make_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_durably(parent)?;
    }
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(folder_of(directory))
}

#[cfg(test)]
mod tests;
