//! What lies in the directory of a buffer, for those who only read it: no lock is taken, and nothing is
//! changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::DeviceId;

use super::foreign::{FOREIGN, NAME, device_of, read};
use super::{QUARANTINE, STORE, STORE_OLD, numbered};
use crate::buffer::store::main_file;

/// What sled writes beside its main file from the start.
const SLED_CONFIG: &str = "conf";

/// Whether a directory is a store, or what damage left of one.
pub(in crate::buffer) fn is_store(directory: &Path) -> bool {
    let signs = [
        main_file(directory),
        directory.join(SLED_CONFIG),
        directory.join(NAME),
    ];
    signs.iter().any(|path| path.exists())
}

/// The stores of a buffer's device: the one in use, the one that it was made from where a power cut
/// left that, and damaged ones.
pub(in crate::buffer) fn stores_of(buffer: &Path) -> io::Result<Vec<PathBuf>> {
    let in_use = [STORE, STORE_OLD].map(|name| buffer.join(name));
    let damaged = numbered(buffer, QUARANTINE)?.into_iter();
    let all = in_use.into_iter().chain(damaged.map(|(_, store)| store));
    Ok(all.filter(|store| store.is_dir()).collect())
}

/// What was moved aside in a buffer: damaged stores, then buffers of other devices.
pub(in crate::buffer) fn moved_aside(buffer: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = numbered(buffer, QUARANTINE)?;
    found.extend(numbered(buffer, FOREIGN)?);
    Ok(found.into_iter().map(|(_, place)| place).collect())
}

/// Whose passages a store or a buffer holds, where that can be read.
pub(in crate::buffer) fn device_at(place: &Path) -> io::Result<Option<DeviceId>> {
    match read(place)? {
        Some(device) => Ok(Some(device)),
        None => device_of(place),
    }
}

/// The files below a directory with their lengths, in the order of their names. What goes meanwhile,
/// as in the store of an agent that runs, is not there.
pub(in crate::buffer) fn files_below(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files_below(&entry.path())?),
            Ok(metadata) if metadata.is_file() => found.push((entry.path(), metadata.len())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
