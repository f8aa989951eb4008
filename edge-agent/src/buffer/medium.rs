//! What the engine needs of a place for keys and values, and what can go wrong there.
//!
//! [`super::store`] is the one for disks. Another one, whose power can be cut at will, is handed
//! over by the simulator ([`super::Buffer::over`]).

use std::collections::HashMap;
use std::collections::hash_map::IntoIter;
use std::fmt::Debug;
use std::io;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Where keys and values lie, in the order of the keys.
pub trait Medium: Debug + Send {
    /// The value under a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The next key and its value.
    ///
    /// # Errors
    /// When they cannot be read.
    fn after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Makes the changes, all or none, and makes them durable.
    ///
    /// # Errors
    /// After one nobody knows what is durable.
    fn commit(&self, changes: Changes) -> Result<(), StoreError>;

    /// Whether everything lies where a commit makes it durable.
    ///
    /// # Errors
    /// When something does not.
    fn check(&self) -> Result<(), StoreError>;

    /// Bytes that it takes.
    fn file_bytes(&self) -> u64;

    /// Bytes that it could take besides.
    fn free_bytes(&self) -> u64;
}

/// What can go wrong with the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Heals when somebody makes room.
    #[error("no space left on the device")]
    NoSpace,
    /// The operator's to mend; says nothing about what is stored.
    #[error("{0}")]
    Denied(String),
    /// It failed, or holds something else than was written.
    #[error("{0}")]
    Broken(String),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied(error.to_string())
            }
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// Changes that are made together or not at all.
#[derive(Debug, Default)]
pub struct Changes {
    /// By key; none deletes.
    staged: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Changes {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    pub(in crate::buffer) fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.staged.insert(key.to_vec(), Some(value));
    }

    pub(in crate::buffer) fn delete(&mut self, key: &[u8]) {
        self.staged.insert(key.to_vec(), None);
    }

    /// What will stand under the key; the outer none: what stands there now.
    pub(in crate::buffer) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.staged.get(key).map(Option::as_deref)
    }
}

impl IntoIterator for Changes {
    type Item = (Vec<u8>, Option<Vec<u8>>);
    type IntoIter = IntoIter<Vec<u8>, Option<Vec<u8>>>;

    /// Each key with its new value, none where it is deleted, in no order.
    fn into_iter(self) -> Self::IntoIter {
        self.staged.into_iter()
    }
}
