//! `edge-agent export`: the passages in the files of a store, as lines of JSON
//! ([`crate::buffer::export`] reads them).
//!
//! Standard output has the lines and nothing else, a file is there when it is whole, and neither
//! replaces anything. What is said besides goes to standard error.

mod line;
mod summary;
#[cfg(test)]
mod tests;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use proto::DeviceId;
use serde_json::{Value, json};
use service::exit;
use service::private_file::{NewFile, PrivateFileError, folder_of};

use super::{complain, note, say};
use crate::buffer::export::{
    ExportError, Exporter, MovedAside, StoreFiles, Tally, moved_aside, stores_at,
};
use crate::config;
use crate::status::text::bytes;

/// In a store, where sled keeps large values as files of their own.
const BLOBS: &str = "blobs";

/// From one word on how far it is to the next.
const PROGRESS_BYTES: u64 = 256 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  edge-agent export --config /etc/verst/edge-agent.toml
      lists what was moved aside: quarantine-N (damaged), foreign-N (of another unit)
  edge-agent export /var/lib/verst/edge-agent/quarantine-1 --out /media/usb/KV12345.ndjson
      writes what can be read of it into a new file
  edge-agent export /var/lib/verst/edge-agent/foreign-1 | jq -r .timestamp | sort | head
      hands it on

A line:
  {\"kvfv_id\":\"KV12345\",\"stream\":\"5f0c…\",\"seq\":17,\"timestamp\":\"2025-04-05T10:15:30.000Z\",…}
Fields and units are those of a post; stream and seq name the passage at the centre, which may
have counted it already. Do not post the lines again: each would count as another vehicle.

The store is only read: it may be damaged, another unit's, or that of an agent that runs.

Exit status: 0 done, 1 failed or the disk did not give all of it, 2 wrong usage, 78 faulty
configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Export {
    /// quarantine-N, foreign-N, the directory of a buffer, or a single file of a store.
    #[arg(required_unless_present = "config")]
    store: Option<PathBuf>,
    /// Write the lines into this new file, for its owner alone [default: standard output].
    #[arg(long, value_name = "FILE", requires = "store")]
    out: Option<PathBuf>,
    /// List what was moved aside in the buffer of this configuration.
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    config: Option<PathBuf>,
    /// Print the list, or the summary, as JSON.
    #[arg(long)]
    json: bool,
}

/// Why there is no whole export.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] ExportError),
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("cannot write standard output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{} lies in the store {}, where nothing is ever written; name a file elsewhere",
        path.display(),
        store.display()
    )]
    Inside { path: PathBuf, store: PathBuf },
}

impl Export {
    pub(super) fn execute(self) -> u8 {
        let outcome = match (&self.store, &self.config) {
            (Some(store), _) => self.export(store),
            (None, Some(file)) => match config::load(file) {
                Ok(config) => self.list(&config.buffer.directory),
                Err(faults) => return complain(&format!("configuration:\n{faults}"), exit::CONFIG),
            },
            (None, None) => return exit::USAGE,
        };
        match outcome {
            Ok(code) => code,
            // Whoever reads has seen enough.
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => exit::OK,
            Err(failure) => complain(&failure.to_string(), exit::FAILURE),
        }
    }

    fn list(&self, buffer: &Path) -> Result<u8, Failure> {
        let aside = moved_aside(buffer)?;
        if self.json {
            say(&list_as_json(&aside));
        } else {
            say(&list_as_text(buffer, &aside));
        }
        Ok(exit::OK)
    }

    fn export(&self, store: &Path) -> Result<u8, Failure> {
        let stores = stores_at(store)?;
        let mut progress = Progress::new(&stores, self.json);
        let mut look = |bytes| progress.add(bytes);
        let tally = match &self.out {
            Some(path) => write_file(path, store, &stores, &mut look)?,
            None => write_lines(&stores, BufWriter::new(io::stdout().lock()), &mut look)?,
        };
        let summary = if self.json {
            summary::json(&stores, &tally)
        } else {
            summary::text(&stores, &tally)
        };
        note(&summary);
        Ok(if tally.unread_bytes > 0 {
            exit::FAILURE
        } else {
            exit::OK
        })
    }
}

fn write_file(
    path: &Path,
    store: &Path,
    stores: &[StoreFiles],
    look: &mut impl FnMut(u64),
) -> Result<Tally, Failure> {
    if lies_in(path, store) {
        return Err(Failure::Inside {
            path: path.to_owned(),
            store: store.to_owned(),
        });
    }
    let mut file = NewFile::begin(path)?;
    let tally = write_lines(stores, &mut file, look).map_err(|failure| match failure {
        Failure::Output(source) => Failure::Write {
            path: path.to_owned(),
            source,
        },
        other => other,
    })?;
    file.finish()?;
    Ok(tally)
}

fn write_lines(
    stores: &[StoreFiles],
    mut out: impl Write,
    look: &mut impl FnMut(u64),
) -> Result<Tally, Failure> {
    let mut exporter = Exporter::default();
    for store in stores {
        let looked = exporter.look_through(
            store,
            &mut |exported| line::write(&mut out, &exported),
            look,
        );
        looked.map_err(|error| match error {
            ExportError::Taker(error) => Failure::Output(error),
            other => Failure::Store(other),
        })?;
    }
    out.flush()?;
    Ok(exporter.into_tally())
}

/// Whether a file would be made in a store, or beside one of its files.
fn lies_in(file: &Path, store: &Path) -> bool {
    let (Ok(folder), Ok(store)) = (folder_of(file).canonicalize(), store.canonicalize()) else {
        return false;
    };
    let whole = match store.parent() {
        Some(parent) if store.is_file() && parent.ends_with(BLOBS) => parent.parent(),
        Some(parent) if store.is_file() => Some(parent),
        _ => Some(store.as_path()),
    };
    whole.is_some_and(|whole| folder.starts_with(whole))
}

fn list_as_text(buffer: &Path, aside: &[MovedAside]) -> String {
    if aside.is_empty() {
        return format!("nothing was moved aside in {}\n", buffer.display());
    }
    let mut text = String::new();
    for found in aside {
        let (place, size) = (found.place.display(), bytes(found.bytes));
        let whose = whose(found.device.as_ref());
        text.push_str(&format!("{place}  {size}, {whose}\n"));
    }
    text.push_str("to take the passages out: edge-agent export STORE --out FILE\n");
    text
}

fn whose(device: Option<&DeviceId>) -> String {
    device.map_or("no name in it".to_owned(), |device| format!("of {device}"))
}

fn list_as_json(aside: &[MovedAside]) -> String {
    let aside = aside.iter().map(|found| {
        json!({
            "store": found.place.display().to_string(),
            "kvfv_id": found.device,
            "bytes": found.bytes,
        })
    });
    format!("{}\n", Value::from_iter(aside))
}

/// Says how far it is, now and then.
struct Progress {
    looked: u64,
    all: u64,
    is_silent: bool,
}

impl Progress {
    fn new(stores: &[StoreFiles], is_silent: bool) -> Self {
        Self {
            looked: 0,
            all: stores.iter().map(StoreFiles::bytes).sum(),
            is_silent,
        }
    }

    fn add(&mut self, more: u64) {
        let before = self.looked / PROGRESS_BYTES;
        self.looked += more;
        if self.looked / PROGRESS_BYTES > before && !self.is_silent {
            let (looked, all) = (bytes(self.looked), bytes(self.all));
            note(&format!("edge-agent: {looked} of {all} looked through\n"));
        }
    }
}
