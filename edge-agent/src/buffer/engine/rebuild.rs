//! Making the file small again: sled's never shrinks.

use std::path::Path;

use super::Engine;
use crate::buffer::OpenError;
use crate::buffer::medium::{Changes, Medium, StoreError};
use crate::buffer::store::Store;
use crate::buffer::stream::Stream;

/// A store is rebuilt when its file has more bytes than this…
pub(super) const REBUILD_FILE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// …and it holds no more than this, so that the copy takes less than a second.
const REBUILD_HELD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Keys that are copied with one commit.
const REBUILD_BATCH: usize = 256;

impl Engine {
    /// Whether nothing waits, little is held, and the file, which never shrinks, is large.
    pub(in crate::buffer) fn is_oversized(&self) -> bool {
        let is_sent = self.streams.iter().all(Stream::is_settled);
        is_sent
            && self.home.is_some()
            && self.held_bytes <= REBUILD_HELD_BYTES_MAX
            && self.disk.used_bytes > self.rebuild_file_bytes_min
    }

    /// Copies what is held into a new, small store, and goes on with that as a new run.
    pub(in crate::buffer) fn rebuild(self, now_ms: i64) -> Result<Self, OpenError> {
        let fault = |problem: String| OpenError::Store {
            path: self.settings.directory.clone(),
            problem,
        };
        if let Some(home) = &self.home {
            self.copy_to(&home.store_new())
                .map_err(|error| fault(error.to_string()))?;
            home.replace_store()
                .map_err(|error| fault(error.to_string()))?;
        }
        self.restart(now_ms)
    }

    fn copy_to(&self, place: &Path) -> Result<(), StoreError> {
        let copy = Store::open(place)?;
        let mut changes = Changes::default();
        let mut at = Vec::new();
        let mut copied = 0_usize;
        while let Some((key, value)) = self.store.after(&at)? {
            changes.put(&key, value);
            copied += 1;
            if copied.is_multiple_of(REBUILD_BATCH) {
                copy.commit(std::mem::take(&mut changes))?;
            }
            at = key;
        }
        copy.commit(changes)
    }
}
