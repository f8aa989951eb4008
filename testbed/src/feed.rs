//! From lines in the customer's format to posts at real agents, and into the ledger.
//!
//! Invariant: what is in the [`Ledger`] was accepted by an agent, and the other way round.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use flate2::read::MultiGzDecoder;

use crate::recompute::event::{Event, EventError};
use crate::recompute::{Fact, Ledger};
use crate::system::{Camera, PostError};

/// Lines in one post of a replay.
pub const POST_LINES: usize = 500;
/// Units in one file; each gets a process of its own.
pub const UNITS_MAX: usize = 64;
/// The longest line; the agent takes far less.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// The first two bytes of gzip (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A line and what follows from it.
#[derive(Debug, Clone)]
pub struct Line {
    /// As it stands in the file.
    pub text: String,
    /// Its facts.
    pub fact: Fact,
}

/// The lines of each unit, in the order of the file.
pub type Feed = BTreeMap<String, Vec<Line>>;

/// A file that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("{path}:{line}: {source}")]
    Line {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        source: EventError,
    },
    /// A line too long to be an event.
    #[error("{path}:{line}: {bytes} bytes, the limit is {LINE_BYTES_MAX}")]
    TooLong {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// How long.
        bytes: usize,
    },
    /// Too many units for one machine.
    #[error("{path}: {units} units, the limit is {UNITS_MAX} (each gets an agent process)")]
    TooManyUnits {
        /// Which file.
        path: String,
        /// How many.
        units: usize,
    },
}

/// Reads a file of NDJSON, compressed by gzip or not. Empty lines are skipped.
///
/// # Errors
/// [`FeedError`], with the line.
pub fn read(path: &Path) -> Result<Feed, FeedError> {
    let name = path.display().to_string();
    let fault = |source| FeedError::Io {
        path: name.clone(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(fault)?);
    let is_gzip = file.fill_buf().map_err(fault)?.starts_with(&GZIP_MAGIC);
    let reader: Box<dyn Read> = if is_gzip {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut feed = Feed::new();
    for (number, text) in (1..).zip(BufReader::new(reader).lines()) {
        let text = text.map_err(fault)?;
        if text.len() > LINE_BYTES_MAX {
            return Err(FeedError::TooLong {
                path: name,
                line: number,
                bytes: text.len(),
            });
        }
        if !text.trim().is_empty() {
            let path = || name.clone();
            add(&mut feed, text).map_err(|source| FeedError::Line {
                path: path(),
                line: number,
                source,
            })?;
        }
        if feed.len() > UNITS_MAX {
            return Err(FeedError::TooManyUnits {
                path: name,
                units: feed.len(),
            });
        }
    }
    Ok(feed)
}

/// Sorts lines that were generated to their units.
///
/// # Errors
/// A line is no event.
pub fn sort(lines: impl IntoIterator<Item = String>) -> Result<Feed, EventError> {
    let mut feed = Feed::new();
    lines
        .into_iter()
        .try_for_each(|text| add(&mut feed, text))
        .map(|()| feed)
}

fn add(feed: &mut Feed, text: String) -> Result<(), EventError> {
    let event = Event::parse(&text)?;
    let fact = event.fact()?;
    feed.entry(event.kvfv_id)
        .or_default()
        .push(Line { text, fact });
    Ok(())
}

/// Posts that did not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum PostingError {
    /// The agent does not take them.
    #[error("unit {device}: {source}")]
    Post {
        /// Whose.
        device: String,
        /// Why not.
        source: PostError,
    },
    /// A generated line is no event.
    #[error("unit {device}: {source}")]
    Unreadable {
        /// Whose.
        device: String,
        /// What is wrong.
        source: EventError,
    },
    /// The agent refused single passages of a valid file.
    #[error("unit {device}: {accepted} of {posted} passages accepted, first refusal: {first}")]
    Refused {
        /// Whose.
        device: String,
        /// Accepted, or accepted before.
        accepted: u64,
        /// In the post.
        posted: u64,
        /// Why.
        first: String,
    },
}

/// How lines are posted.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many times faster than they happened; `None`: as fast as the agent takes them.
    pub speedup: Option<f64>,
    /// How long the agent may be away. Above zero only for lines with `event_id`.
    pub through: Duration,
}

impl Pace {
    /// As fast as possible, without a second try.
    pub const FULL: Self = Self {
        speedup: None,
        through: Duration::ZERO,
    };
}

/// Posts all lines of one unit and returns the ledger of what was accepted.
///
/// # Errors
/// [`PostingError`]: something was not accepted.
pub async fn post(
    device: &str,
    lines: &[Line],
    camera: &Camera,
    pace: Pace,
) -> Result<Ledger, PostingError> {
    let begun = tokio::time::Instant::now();
    let first_ms = lines.first().map_or(0, |line| line.fact.event_ms);
    let mut ledger = Ledger::new();
    for post in lines.chunks(POST_LINES) {
        if let (Some(speedup), Some(last)) = (pace.speedup, post.last()) {
            let happened_ms = u32::try_from(last.fact.event_ms - first_ms).unwrap_or(0);
            let due = Duration::from_secs_f64(f64::from(happened_ms) / 1_000.0 / speedup);
            tokio::time::sleep_until(begun + due).await;
        }
        let texts: Vec<String> = post.iter().map(|line| line.text.clone()).collect();
        accept(device, &texts, camera, pace.through).await?;
        post.iter()
            .for_each(|line| ledger.add(device, line.fact.clone()));
    }
    Ok(ledger)
}

/// One post, all of which must be accepted.
///
/// # Errors
/// [`PostingError`].
pub async fn accept(
    device: &str,
    lines: &[String],
    camera: &Camera,
    through: Duration,
) -> Result<(), PostingError> {
    let outcome = if through.is_zero() {
        camera.post(lines).await
    } else {
        camera.post_through(lines, through).await
    };
    let device = || device.to_owned();
    let answer = outcome.map_err(|source| PostingError::Post {
        device: device(),
        source,
    })?;
    let accepted = answer.accepted + answer.duplicates;
    let posted = lines.len() as u64;
    if accepted != posted {
        let first = answer
            .errors
            .first()
            .map_or_else(String::new, ToString::to_string);
        return Err(PostingError::Refused {
            device: device(),
            accepted,
            posted,
            first,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::workdir::WorkDir;

    const LINES: &str = concat!(
        r#"{"kvfv_id":"a","timestamp":"2025-04-05T10:00:00Z","vehicle_speed":80}"#,
        "\n\n",
        r#"{"kvfv_id":"b","timestamp":"2025-04-05T10:00:01Z"}"#,
        "\n",
        r#"{"kvfv_id":"a","timestamp":"2025-04-05T10:00:02Z"}"#,
    );

    #[test]
    fn a_file_reads_the_same_compressed_or_not() {
        let directory = WorkDir::new("feed").expect("a directory");
        let (plain, packed) = (
            directory.path().join("a.ndjson"),
            directory.path().join("a.gz"),
        );
        std::fs::write(&plain, LINES).expect("written");
        let mut gzip = GzEncoder::new(File::create(&packed).expect("made"), Compression::fast());
        gzip.write_all(LINES.as_bytes()).expect("written");
        gzip.finish().expect("written");
        for path in [plain, packed] {
            let feed = read(&path).expect("a feed");
            let sizes: Vec<(&str, usize)> = feed
                .iter()
                .map(|(device, lines)| (device.as_str(), lines.len()))
                .collect();
            assert_eq!(sizes, [("a", 2), ("b", 1)]);
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let directory = WorkDir::new("feed").expect("a directory");
        let path = directory.path().join("bad.ndjson");
        std::fs::write(&path, format!("{LINES}\nnonsense\n")).expect("written");
        let error = read(&path).expect_err("no event").to_string();
        assert!(error.contains("bad.ndjson:5: "), "{error}");
    }
}
