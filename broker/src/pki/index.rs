//! What an authority has issued and revoked: `index.jsonl`, one JSON object a line, only appended.
//!
//! ```json
//! {"issued":{"serial":"5f…","name":"KV12345","purpose":"unit","at_ms":1763683200000,"end_ms":…}}
//! {"revoked":{"serial":"5f…","at_ms":1763769600000}}
//! ```
//! Opened under a lock of the file system that other processes wait for.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use proto::DeviceId;
use serde::{Deserialize, Serialize};

use super::{PUBLIC, PkiError, at};

/// Its name in the authority's folder.
pub const FILE: &str = "index.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// A certificate.
    Issued {
        /// Its serial number, hexadecimal.
        serial: String,
        /// Whom it names.
        name: DeviceId,
        /// What it is for.
        purpose: String,
        /// When, in milliseconds since 1970.
        at_ms: i64,
        /// When it ends.
        end_ms: i64,
    },
    /// The end of one.
    Revoked {
        /// Which.
        serial: String,
        /// When.
        at_ms: i64,
    },
}

/// The file and what it says.
pub struct Index {
    file: File,
    path: PathBuf,
    certificates: BTreeMap<String, Certificate>,
}

struct Certificate {
    name: DeviceId,
    purpose: String,
    revoked_ms: Option<i64>,
}

impl Index {
    /// Opens or creates the file, and locks it.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not an [`Entry`].
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            // Whoever could write here could take a revocation back.
            .mode(PUBLIC)
            .open(path);
        let mut file = file.map_err(at(path))?;
        file.lock().map_err(at(path))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(at(path))?;
        let mut index = Self {
            file,
            path: path.to_owned(),
            certificates: BTreeMap::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let damaged = |problem: String| PkiError::Damaged {
                path: path.to_owned(),
                problem: format!("line {}: {problem}", number + 1),
            };
            let entry = serde_json::from_str(line).map_err(|error| damaged(error.to_string()))?;
            index.take(entry).map_err(damaged)?;
        }
        Ok(index)
    }

    fn take(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Issued {
                serial,
                name,
                purpose,
                ..
            } => {
                if unhex(&serial).is_none() {
                    return Err(format!("serial {serial:?} is not hexadecimal"));
                }
                self.certificates.insert(
                    serial,
                    Certificate {
                        name,
                        purpose,
                        revoked_ms: None,
                    },
                );
            }
            Entry::Revoked { serial, at_ms } => {
                let certificate = self.certificates.get_mut(&serial);
                let certificate = certificate.ok_or(format!("serial {serial} was never issued"))?;
                certificate.revoked_ms.get_or_insert(at_ms);
            }
        }
        Ok(())
    }

    /// Appends entries; they are durable on return.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, entries: Vec<Entry>) -> Result<(), PkiError> {
        let mut text = Vec::new();
        for entry in &entries {
            serde_json::to_writer(&mut text, entry).map_err(|error| PkiError::Damaged {
                path: self.path.clone(),
                problem: error.to_string(),
            })?;
            text.push(b'\n');
        }
        let written = self
            .file
            .write_all(&text)
            .and_then(|()| self.file.sync_all());
        written.map_err(at(&self.path))?;
        for entry in entries {
            let taken = self.take(entry);
            taken.map_err(|problem| PkiError::Damaged {
                path: self.path.clone(),
                problem,
            })?;
        }
        Ok(())
    }

    /// Whether a certificate of this name was issued and not revoked.
    #[must_use]
    pub fn in_force(&self, name: &DeviceId) -> bool {
        self.of(name)
            .any(|certificate| certificate.revoked_ms.is_none())
    }

    /// What this name was first issued for.
    #[must_use]
    pub fn purpose_of(&self, name: &DeviceId) -> Option<&str> {
        self.of(name)
            .map(|certificate| certificate.purpose.as_str())
            .next()
    }

    fn of(&self, name: &DeviceId) -> impl Iterator<Item = &Certificate> {
        self.certificates
            .values()
            .filter(move |certificate| certificate.name == *name)
    }

    /// The serial numbers of certificates in force under this name, or this very number.
    #[must_use]
    pub fn serials_in_force(&self, name_or_serial: &str) -> Vec<String> {
        let wanted = self.certificates.iter().filter(|(serial, certificate)| {
            certificate.revoked_ms.is_none()
                && (certificate.name.as_str() == name_or_serial
                    || serial.eq_ignore_ascii_case(name_or_serial))
        });
        wanted.map(|(serial, _)| serial.clone()).collect()
    }

    /// Serial number and time of everything that was revoked.
    pub fn revoked(&self) -> impl Iterator<Item = (Vec<u8>, i64)> {
        self.certificates
            .iter()
            .filter_map(|(serial, certificate)| Some((unhex(serial)?, certificate.revoked_ms?)))
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok());
    let byte = |pair: &str| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok())?;
    pairs.map(|pair| pair.and_then(byte)).collect()
}
