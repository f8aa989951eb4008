//! Files that only their owner may read: keys, tokens, passwords, passages.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// The bits of a file's mode that let others read or change it.
const OTHERS: u32 = 0o077;

/// A private file that could not be written. The old content, if any, is untouched.
#[derive(Debug, thiserror::Error)]
#[error("cannot write private file {}: {source}", path.display())]
pub struct PrivateFileError {
    path: PathBuf,
    source: io::Error,
}

/// Writes `bytes` to `path` with mode 0600, whole or not at all, and durable on return.
///
/// A temporary file beside it is written, synced and renamed over it, so a reader sees the old or
/// the new content and a power cut leaves one of them. The directory must exist.
///
/// # Errors
/// Any error of the file system; the old file is then still in place, unless only the last sync of
/// the directory failed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    replace(path, bytes).map_err(|source| PrivateFileError {
        path: path.to_owned(),
        source,
    })
}

/// Warns when others may read or change a file with a secret, by its name for people.
///
/// It is used all the same: refusing it would take a unit off the road for an operator's slip.
pub fn warn_if_open(what: &str, path: &Path) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & OTHERS != 0) {
        let path = path.display();
        tracing::warn!(%path, "{what} is open to other users: run chmod 600 on it");
    }
}

/// From here on every file and directory that this process makes is its owner's alone, whatever
/// the umask that it was started with; what it makes for others gets its mode by name.
pub fn keep_new_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // tempfile creates with O_EXCL and mode 0600, under a name that nobody can foresee.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit.key");
        write(&path, b"secret").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn replacing_a_public_file_makes_it_private_and_leaves_no_remains() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit.key");
        std::fs::write(&path, b"old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_file_and_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"old").unwrap();
        let error = write(&path, b"new").unwrap_err().to_string();
        assert!(error.contains("occupied"), "{error}");
        assert_eq!(std::fs::read(path.join("inside")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
