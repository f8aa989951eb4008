//! Files that only their owner may read: keys, tokens, passwords, passages.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tempfile::NamedTempFile;

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

/// A new private file in the making: mode 0600, under a temporary name beside its own until
/// [`NewFile::finish`]. Dropped before that, it is deleted; a process that is killed leaves it as
/// `NAME.….part`.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    content: BufWriter<NamedTempFile>,
}

impl NewFile {
    /// Begins a file that does not exist yet. Its directory must.
    ///
    /// # Errors
    /// There is something of that name, or none can be made.
    pub fn begin(path: &Path) -> Result<Self, PrivateFileError> {
        let begin = || {
            if path.symlink_metadata().is_ok() {
                let advice = "there is something of that name; name another or delete it";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, advice));
            }
            let mut prefix = path.file_name().unwrap_or_default().to_owned();
            prefix.push(".");
            let mut options = tempfile::Builder::new();
            let file = options
                .prefix(&prefix)
                .suffix(".part")
                .tempfile_in(folder_of(path))?;
            Ok(Self {
                path: path.to_owned(),
                content: BufWriter::new(file),
            })
        };
        begin().map_err(|source| PrivateFileError {
            path: path.to_owned(),
            source,
        })
    }

    /// Makes it durable and gives it its name, which nothing else may have got meanwhile.
    ///
    /// # Errors
    /// Any error of the file system; unless only the last sync of the directory failed, there is no
    /// file then.
    pub fn finish(self) -> Result<(), PrivateFileError> {
        let Self { path, content } = self;
        let finish = || {
            let file = content
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            file.persist_noclobber(&path)
                .map_err(|failed| failed.error)?;
            File::open(folder_of(&path))?.sync_all()
        };
        finish().map_err(|source| PrivateFileError {
            path: path.clone(),
            source,
        })
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.flush()
    }
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
    let folder = folder_of(path);
    // tempfile creates with O_EXCL and mode 0600, under a name that nobody can foresee.
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

/// The directory that a file lies in, or would.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
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

    #[test]
    fn a_new_file_is_private_durable_and_there_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passages.ndjson");
        let mut file = NewFile::begin(&path).unwrap();
        file.write_all(b"passages").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"passages");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        drop(NewFile::begin(&folder.path().join("half.ndjson")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_replaces_nothing_also_not_what_came_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passages.ndjson");
        let file = NewFile::begin(&path).unwrap();
        std::fs::write(&path, b"another's").unwrap();
        for error in [
            file.finish().unwrap_err(),
            NewFile::begin(&path).unwrap_err(),
        ] {
            assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
            assert!(error.to_string().contains("passages.ndjson"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
