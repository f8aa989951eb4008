//! The files of an authority: who may read them, and that each is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{FOLDER, PUBLIC, PkiError};

pub(super) fn make_folder(folder: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(FOLDER);
    builder.create(folder).map_err(at(folder))
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(at(path))
}

/// Replaces a file that everybody may read; durable on return.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    replace(path, text, PUBLIC)?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(at(path))
}

/// Puts a new file in the place of an old one, in one step.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // What a killed run has left would keep its mode.
    if new.exists() {
        fs::remove_file(&new).map_err(at(&new))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .map_err(at(&new))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}
