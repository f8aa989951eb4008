//! sled, held the one way in which it was found to survive a power cut.
//!
//! `flush` of sled 0.34 is `sync_file_range`, which is no promise: a commit is flush, *then*
//! `fdatasync` of the file `db`. Only that file is synced, so nothing may ever go to `blobs/`:
//! values have a limit ([`VALUE_BYTES_MAX`]) and the directory is looked at. sled panics on some
//! damage; every call of it is contained and a panic is an error.
//!
//! It knows nothing of passages.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use service::clock::monotonic;
use service::panics::contain;
use sled::Batch;

use super::chunk::VALUE_BYTES_MAX;
use super::medium::{Changes, Entry, Medium, StoreError};

/// Pages that sled keeps in memory. Its 256 shards make it use several times as much.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// sled's main file.
const MAIN_FILE: &str = "db";

/// Where sled would put values that are too large for its main file.
const BLOBS: &str = "blobs";

/// How long a store that was just closed may keep its file locked, and how often to look.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    db: sled::Db,
    /// A second descriptor of the main file: `fdatasync` works on the file, whoever wrote it.
    main_file: File,
    directory: PathBuf,
}

impl Store {
    /// Opens or makes the store and makes its existence durable.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        wait_for_lock(&directory.join(MAIN_FILE), LOCK_WAIT_MAX)?;
        let db = contained(|| {
            sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .mode(sled::Mode::LowSpace)
                .open()
                .map_err(StoreError::from)
        })?;
        let main_file = File::options()
            .read(true)
            .write(true)
            .open(directory.join(MAIN_FILE))?;
        main_file.sync_all()?;
        for entry in fs::read_dir(directory)? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync_directory(directory)?;
        let store = Self {
            db,
            main_file,
            directory: directory.to_owned(),
        };
        store.check()?;
        Ok(store)
    }
}

impl Medium for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = contained(|| self.db.get(key).map_err(StoreError::from))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// One look-up per key, never an iterator: sled notices that its cache is full only after 64
    /// looks at the pages of a shard, and an iterator looks once at each page of 16 keys.
    fn after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let found = contained(|| self.db.get_gt(key).map_err(StoreError::from))?;
        Ok(found.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) if value.len() > VALUE_BYTES_MAX => {
                    return Err(StoreError::Broken(format!(
                        "value of {} bytes is above the limit of {VALUE_BYTES_MAX}",
                        value.len()
                    )));
                }
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        contained(|| {
            self.db.apply_batch(batch)?;
            self.db.flush()?;
            Ok(())
        })?;
        self.main_file.sync_data()?;
        Ok(())
    }

    /// Nothing may ever lie in `blobs/`, for nobody syncs it.
    fn check(&self) -> Result<(), StoreError> {
        match fs::read_dir(self.directory.join(BLOBS)) {
            Ok(mut entries) => entries.next().map_or(Ok(()), |_| {
                Err(StoreError::Broken(
                    "a value went to blobs/, which is not synced".to_owned(),
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn file_bytes(&self) -> u64 {
        self.main_file
            .metadata()
            .map_or(0, |metadata| metadata.len())
    }

    fn free_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.main_file)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// sled's main file in a store's directory.
pub(super) fn main_file(directory: &Path) -> PathBuf {
    directory.join(MAIN_FILE)
}

/// Waits until a store that this process has just closed lets go of its file: sled does that in its
/// own time. Another process cannot have it, for the directory is locked. To fail here says nothing
/// about what is stored.
fn wait_for_lock(main_file: &Path, patience: Duration) -> Result<(), StoreError> {
    let file = match File::open(main_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let deadline = monotonic() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file.unlock()?),
            Err(fs::TryLockError::WouldBlock) if monotonic() < deadline => {
                std::thread::park_timeout(LOCK_POLL);
            }
            Err(error) => return Err(StoreError::Denied(format!("main file is locked: {error}"))),
        }
    }
}

fn contained<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    contain(work).unwrap_or_else(|panic| Err(StoreError::Broken(panic.message)))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_together_and_found_after_opening_again() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let mut changes = Changes::default();
        assert!(changes.is_empty());
        changes.put(b"a", vec![1]);
        changes.put(b"b", vec![2]);
        changes.delete(b"a");
        assert!(!changes.is_empty());
        store.commit(changes).unwrap();
        drop(store);
        let store = Store::open(place.path()).unwrap();
        assert_eq!(store.get(b"a").unwrap(), None);
        assert_eq!(
            store.after(b"").unwrap().map(|(_, value)| value.to_vec()),
            Some(vec![2])
        );
    }

    #[test]
    fn a_store_that_was_just_closed_is_waited_for_and_one_that_stays_open_is_in_use() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let held = File::open(place.path()).unwrap();
        held.lock().unwrap();
        let refused = wait_for_lock(place.path(), Duration::ZERO);
        assert!(matches!(refused, Err(StoreError::Denied(_))), "{refused:?}");
        let closing = std::thread::spawn(move || drop(held));
        assert_eq!(wait_for_lock(place.path(), LOCK_WAIT_MAX), Ok(()));
        closing.join().unwrap();
    }

    #[test]
    fn a_value_that_would_leave_the_synced_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let mut changes = Changes::default();
        changes.put(b"a", vec![0; VALUE_BYTES_MAX + 1]);
        assert!(store.commit(changes).is_err());
        assert_eq!(store.get(b"a").unwrap(), None);
    }

    #[test]
    fn full_leaves_of_the_largest_values_stay_in_the_synced_file() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        for round in 0..40_u32 {
            let mut changes = Changes::default();
            for n in 0..16_u32 {
                changes.put(&(round * 16 + n).to_be_bytes(), vec![7; VALUE_BYTES_MAX]);
            }
            store.commit(changes).unwrap();
        }
        store.check().unwrap();
        fs::write(place.path().join(BLOBS).join("1"), b"x").unwrap();
        assert!(store.check().is_err());
    }
}
