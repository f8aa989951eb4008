//! What must be in the store: a small file beside it, written after each commit.
//!
//! sled takes a damaged end of its log for one that a power cut tore, and goes back to what stands
//! before it without a word; it passes over a damaged message in the middle likewise. The witness
//! knows what was answered with success, and so which of it is missing.
//!
//! Invariants
//! 1. It never states more than is durable: it is written after the commit, not before.
//! 2. It may state less: it is not synced, so after a power cut it may be older than the store. Then
//!    the number of commits says so.
//! 3. It is written into one of two places by turns, each with a checksum: a torn one is not believed,
//!    and then the one before it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proto::StreamId;
use proto::ranges::SeqSet;
use proto::receipt::Centre;
use serde::{Deserialize, Serialize};

use super::records::{from_bytes, to_bytes};

/// Its name in the directory of the buffer.
pub(super) const FILE: &str = "witness";

/// Bytes of one of the two places. A statement that does not fit leaves out the oldest streams.
const PLACE_BYTES: usize = 64 * 1024;

/// Length and checksum in front of a statement.
const HEAD_BYTES: usize = 8;

/// What was in the store after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Statement {
    /// Which commit.
    pub(super) generation: u64,
    /// The database that the unit belongs to.
    pub(super) centre: Option<Centre>,
    /// Oldest first.
    pub(super) streams: Vec<StreamStatement>,
}

/// One stream of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamStatement {
    pub(super) id: StreamId,
    pub(super) run: u32,
    pub(super) accepted_to: u64,
    pub(super) offered: SeqSet,
    /// Numbers that are to be sent, raw or as a summary, or stated as lost.
    pub(super) open: SeqSet,
}

/// The file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    is_silent: bool,
}

impl Witness {
    /// Opens or makes it, and reads what it says.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Statement>)> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(directory.join(FILE))?;
        let said = [0, PLACE_BYTES].map(|at| read(&file, at as u64));
        let newest = said
            .into_iter()
            .flatten()
            .max_by_key(|statement| statement.generation);
        let is_silent = false;
        Ok((Self { file, is_silent }, newest))
    }

    /// Writes down what is in the store. To fail costs nothing that was accepted, only the proof.
    pub(super) fn state(&mut self, mut statement: Statement) {
        let mut body = to_bytes(&statement);
        let most = PLACE_BYTES - HEAD_BYTES;
        while body.len() > most && !statement.streams.is_empty() {
            let streams = statement.streams.len();
            let surplus = streams * (body.len() - most) / body.len() + 1;
            statement.streams.drain(..surplus.min(streams));
            body = to_bytes(&statement);
        }
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        let at = if statement.generation.is_multiple_of(2) {
            0
        } else {
            PLACE_BYTES as u64
        };
        match self.file.write_all_at(&bytes, at) {
            Ok(()) => self.is_silent = false,
            Err(error) if !self.is_silent => {
                self.is_silent = true;
                tracing::warn!(%error, "cannot write down what is in the store; damage would be found later");
            }
            Err(_) => {}
        }
    }
}

fn read(file: &File, at: u64) -> Option<Statement> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, at).ok()?;
    let [a, b, c, d, crc @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let mut body = vec![0; Some(length).filter(|bytes| *bytes <= PLACE_BYTES - HEAD_BYTES)?];
    file.read_exact_at(&mut body, at + HEAD_BYTES as u64).ok()?;
    (crc32c::crc32c(&body) == u32::from_le_bytes(crc)).then_some(())?;
    from_bytes(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(generation: u64) -> Statement {
        Statement {
            generation,
            ..Statement::default()
        }
    }

    fn newest(directory: &Path) -> Option<u64> {
        let (_, said) = Witness::open(directory).unwrap();
        said.map(|said| said.generation)
    }

    #[test]
    fn a_torn_statement_is_not_believed_and_the_one_before_it_is() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(newest(place.path()), None);
        let (mut witness, _) = Witness::open(place.path()).unwrap();
        (7..=9).for_each(|generation| witness.state(statement(generation)));
        assert_eq!(newest(place.path()), Some(9));
        witness
            .file
            .write_all_at(b"torn", PLACE_BYTES as u64 + 9)
            .unwrap();
        assert_eq!(newest(place.path()), Some(8));
        witness.file.write_all_at(&[0xff; 8], 0).unwrap();
        assert_eq!(newest(place.path()), None);
    }

    #[test]
    fn a_statement_that_is_too_long_leaves_out_the_oldest_streams() {
        let place = tempfile::tempdir().unwrap();
        let (mut witness, _) = Witness::open(place.path()).unwrap();
        let stream = |run| StreamStatement {
            id: StreamId::from_bytes([7; 16]),
            run,
            accepted_to: u64::MAX,
            offered: SeqSet::new(),
            open: SeqSet::new(),
        };
        witness.state(Statement {
            streams: (0..10_000).map(stream).collect(),
            ..statement(1)
        });
        let (_, said) = Witness::open(place.path()).unwrap();
        let streams = said.unwrap().streams;
        assert_eq!(streams.last().map(|stream| stream.run), Some(9_999));
        assert!(streams.len() > 1_000);
    }
}
