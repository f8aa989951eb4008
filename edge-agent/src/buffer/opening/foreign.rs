//! Whose passages a store holds, and what is done about one of another device.
//!
//! The centre knows a stream by its device and its number. A store that was copied to another unit, or
//! whose unit was renamed, must therefore not be sent under the new name: what of it was counted under
//! the old one would be counted again. So the file `device` in a store names the device that it was
//! begun for, with a checksum; a store has it before it takes the first passage. It lies beside sled's
//! files, so that it can be read before they are touched, also of a store that does not open.
//!
//! 1. A store that names another device is moved aside, with its witness and with what was moved aside
//!    before, to `foreign-…`, and a new one begins. It is never opened, and never deleted.
//! 2. `foreign-…` is the directory of a buffer: an agent of that device sends what is in it.
//! 3. What says whose it is goes last. So a start that dies in the middle is taken up by the next.
//! 4. A store without a name was begun by an agent that wrote none; it gets that of whoever opens it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::iter;
use std::path::Path;

use proto::DeviceId;

use super::{ATTEMPTS, Home, OpenError, QUARANTINE, STORE, make_durably, numbered, sync_directory};
use crate::buffer::{ForeignStore, witness};

/// Inside a store.
pub(super) const NAME: &str = "device";
/// The same in the making.
const NAME_NEW: &str = "device.new";

pub(super) const FOREIGN: &str = "foreign-";
/// One of those in the making.
const FOREIGN_NEW: &str = "foreign.new";

impl Home {
    /// Moves aside what was begun for another device.
    pub(super) fn set_foreign_aside(&self) -> Result<(), OpenError> {
        let fault = |source| OpenError::Directory {
            path: self.directory.clone(),
            source,
        };
        let place = self.directory.join(FOREIGN_NEW);
        if let Some(found) = device_of(&self.directory).map_err(fault)?
            && found != self.device
        {
            tracing::error!(
                store = %self.store().display(), begun_for = %found, device = %self.device,
                "store was begun for another device; it is moved aside unsent and a new one begins"
            );
            self.move_all(&place).map_err(|source| OpenError::Foreign {
                path: self.store(),
                found,
                device: self.device.clone(),
                source,
            })?;
        }
        if place.exists() {
            let before = numbered(&self.directory, FOREIGN).map_err(fault)?;
            let last = before.last().map_or(0, |(number, _)| *number);
            let directory = self.directory.join(format!("{FOREIGN}{}", last + 1));
            fs::rename(&place, &directory).map_err(fault)?;
            sync_directory(&self.directory).map_err(fault)?;
        }
        Ok(())
    }

    fn move_all(&self, place: &Path) -> io::Result<()> {
        make_durably(place)?;
        let beside = [witness::FILE, ATTEMPTS].map(|name| self.directory.join(name));
        for paths in [beside.to_vec(), self.quarantined()?, vec![self.store()]] {
            for path in paths {
                let to = place.join(path.file_name().unwrap_or_default());
                match fs::rename(&path, to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            sync_directory(place)?;
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// Stores of other devices that were moved aside, the newest last.
    pub(super) fn foreign(&self) -> io::Result<Vec<ForeignStore>> {
        let found = numbered(&self.directory, FOREIGN)?.into_iter();
        let foreign = found.map(|(_, directory)| ForeignStore {
            begun_for: device_of(&directory).ok().flatten(),
            directory,
        });
        Ok(foreign.collect())
    }

    /// Writes down, durably, whose passages a store holds.
    pub(super) fn name(&self, store: &Path) -> io::Result<()> {
        if read(store)?.as_ref() == Some(&self.device) {
            return Ok(());
        }
        let new = store.join(NAME_NEW);
        let mut file = File::create(&new)?;
        file.write_all(line(&self.device).as_bytes())?;
        file.sync_all()?;
        fs::rename(new, store.join(NAME))?;
        sync_directory(store)
    }
}

/// Whose passages a buffer holds: what its store says or, where that is gone or says nothing, the
/// newest of those moved aside.
pub(super) fn device_of(buffer: &Path) -> io::Result<Option<DeviceId>> {
    let aside = numbered(buffer, QUARANTINE)?.into_iter().rev();
    let aside = aside.map(|(_, store)| store);
    for store in iter::once(buffer.join(STORE)).chain(aside) {
        if let Some(device) = read(&store)? {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// What a store says; nothing where the disk gives something else than was written. Missing rights are
/// the operator's to mend.
pub(super) fn read(store: &Path) -> io::Result<Option<DeviceId>> {
    match fs::read_to_string(store.join(NAME)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(_) => Ok(None),
    }
}

/// The name and its checksum.
fn line(device: &DeviceId) -> String {
    format!(
        "{device} {:08x}\n",
        crc32c::crc32c(device.as_str().as_bytes())
    )
}

fn parse(text: &str) -> Option<DeviceId> {
    let (name, _) = text.split_once(' ')?;
    let device = DeviceId::new(name).ok()?;
    (text == line(&device)).then_some(device)
}

#[cfg(test)]
mod tests;
