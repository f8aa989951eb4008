//! Raw rows at saturation, against a bare binary COPY of the same rows.
//!
//! Method: segments of the two kinds take turns in one run, on one table. In a segment of the
//! pipeline 1,000 units send prepared batches as fast as receipts allow; its rate is taken from
//! commit to commit at the database, the last flush left out. In a segment of COPY one connection writes rows that the
//! pipeline wrote, byte for byte as the server gave them out (`COPY … TO STDOUT (FORMAT binary)`),
//! so many to a transaction as the pipeline wrote in its last segment, one transaction after the
//! other. The first pair is warm-up. The figure is the median of the ratios of neighbours.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};

use super::commits::{CommitWatch, rate};
use super::figure::{Figure, Target, median};
use super::prepared::{BATCH_PASSAGES, Recipe, prepare};
use super::stage::{Stage, to_f64};
use super::{Scale, progress};
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::unit::Plates;
use crate::system::Database;

const TARGET_RATIO: f64 = 0.85;
const PASSAGES_PER_S_AND_UNIT: f64 = 12.0;
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// After this long without a commit everything in flight has arrived.
const QUIET: Duration = Duration::from_secs(3);
/// Rows kept in memory for the COPY segments; they are written again and again.
const ROWS_KEPT_MAX: usize = 1_000_000;
/// One message to the server.
const MESSAGE_BYTES: usize = 256 * 1_024;

/// Measures.
///
/// # Errors
/// The system does not come up, or rows are missing.
pub async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let stage = Stage::start(scale.units, &[]).await?;
    let batches = (scale.raw_passages / (scale.units * BATCH_PASSAGES)).max(1);
    let recipe = Recipe {
        batches,
        passages_per_s: PASSAGES_PER_S_AND_UNIT,
        plates: Plates::Hashed,
        seed: 12,
    };
    progress(&format!(
        "raw: making {batches} batches for each of {} units",
        scale.units
    ));
    let load = prepare(&stage.units, recipe)?;
    let total = load.passages;
    let fleet = Fleet::start_prepared(load.units, &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let mut watch = CommitWatch::new(&stage).await?;
    let database = stage.system.database().await?;

    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows: Option<Rows> = None;
    for pair in 0..=scale.pairs {
        let (cpu, start) = (stage.cpu()?, clock::monotonic());
        fleet.offer(true);
        let deadline = start + scale.segment;
        let mut commits = watch
            .collect(SILENCE_MAX, |commit| {
                commit.at >= deadline || commit.passages >= total
            })
            .await?;
        let cores = stage.cpu()?.cores_since(&cpu, start.elapsed());
        fleet.offer(false);
        // What is in flight still saturates the centre, up to the last flush, which is not full.
        commits.extend(watch.until_quiet(QUIET).await?);
        let arrived = commits.pop().map_or(0, |last| last.passages);
        progress(&format!(
            "raw: {} flushes, {arrived} passages so far, {cores}",
            commits.len() + 1
        ));
        if arrived >= total {
            progress(&format!(
                "raw: the passages ran out in pair {pair}, which is left out"
            ));
            break;
        }
        let pipeline = rate(&commits).with_context(|| {
            let whole = commits.len();
            format!("only {whole} whole flushes in a segment: make it longer")
        })?;

        let grown = commits[commits.len() - 1].passages - commits[0].passages;
        let flush_rows = usize::try_from(grown / (commits.len() as u64 - 1))?.max(1);
        let rows = match &mut rows {
            Some(rows) => rows,
            none => none.insert(Rows::read(&database).await?),
        };
        let copy = copy_segment(&database, rows, flush_rows, scale.segment).await?;
        progress(&format!(
            "raw: pair {pair}: pipeline {pipeline:.0} rows/s, bare COPY {copy:.0} rows/s \
             at {flush_rows} rows a transaction{}",
            if pair == 0 { ", warm-up" } else { "" }
        ));
        if pair > 0 {
            ours.push(pipeline);
            bare.push(copy);
            ratios.push(pipeline / copy);
        }
    }
    fleet.stop().await?;
    drop((watch, database));
    stage.stop()?;
    let values = (median(ratios), median(ours), median(bare));
    let (Some(ratio), Some(ours), Some(bare)) = values else {
        bail!("no pair was measured: give it more passages");
    };
    Ok(vec![
        Figure::new(
            "raw.ratio",
            ratio,
            "of bare COPY",
            Target::AtLeast(TARGET_RATIO),
        )
        .with_limit(1.0, "bare COPY, interleaved"),
        Figure::new("raw.rate", ours, "rows/s", Target::Any)
            .with_limit(bare, "rows/s by bare COPY, interleaved"),
    ])
}

/// Rows of the table in the server's own binary form.
struct Rows {
    /// The header that opens a COPY.
    header: Bytes,
    rows: Bytes,
    /// Where each row ends in `rows`.
    ends: Vec<usize>,
    /// The row that goes next.
    next: usize,
}

/// Signature, flags, length of the extension (PostgreSQL documentation, COPY, "Binary Format").
const HEADER_BYTES: usize = 19;
/// In place of a row's number of fields.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

impl Rows {
    async fn read(database: &Database) -> Result<Self> {
        let sql =
            format!("COPY (SELECT * FROM passage LIMIT {ROWS_KEPT_MAX}) TO STDOUT (FORMAT binary)");
        let stream = database.client().copy_out(&sql).await?;
        let mut bytes = BytesMut::new();
        let mut stream = std::pin::pin!(stream);
        while let Some(part) = stream.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        Self::parse(bytes.freeze()).context("COPY gave out no rows in the known form")
    }

    fn parse(mut bytes: Bytes) -> Option<Self> {
        (bytes.len() > HEADER_BYTES).then_some(())?;
        let header = bytes.split_to(HEADER_BYTES);
        let mut ends = Vec::new();
        let mut at = 0;
        loop {
            let mut rest = bytes.get(at..)?;
            let fields = rest.try_get_i16().ok()?;
            if fields < 0 {
                break;
            }
            at += 2;
            for _ in 0..fields {
                let length = bytes.get(at..)?.try_get_i32().ok()?;
                // -1 stands for NULL.
                at += 4 + usize::try_from(length.max(0)).ok()?;
            }
            ends.push(at);
        }
        (!ends.is_empty()).then(|| Self {
            header,
            rows: bytes.slice(..at),
            ends,
            next: 0,
        })
    }

    /// The next rows, at most so many, in one piece; begins anew after the last.
    fn take(&mut self, count: usize) -> (Bytes, usize) {
        let start = if self.next == 0 {
            0
        } else {
            self.ends[self.next - 1]
        };
        let to = (self.next + count).min(self.ends.len());
        let (end, taken) = (self.ends[to - 1], to - self.next);
        self.next = if to == self.ends.len() { 0 } else { to };
        (self.rows.slice(start..end), taken)
    }
}

/// Rows per second of transactions that do nothing but COPY.
async fn copy_segment(
    database: &Database,
    rows: &mut Rows,
    flush_rows: usize,
    span: Duration,
) -> Result<f64> {
    let client = database.client();
    let start = clock::monotonic();
    let mut written = 0;
    while start.elapsed() < span {
        client.batch_execute("BEGIN").await?;
        let sink = client
            .copy_in::<_, Bytes>("COPY passage FROM STDIN (FORMAT binary)")
            .await?;
        let mut sink = std::pin::pin!(sink);
        sink.feed(rows.header.clone()).await?;
        let mut missing = flush_rows;
        while missing > 0 {
            let (mut bytes, taken) = rows.take(missing);
            missing -= taken;
            while !bytes.is_empty() {
                sink.feed(bytes.split_to(bytes.len().min(MESSAGE_BYTES)))
                    .await?;
            }
        }
        sink.feed(Bytes::from_static(&TRAILER)).await?;
        let copied = sink.finish().await?;
        ensure!(
            copied == flush_rows as u64,
            "COPY wrote {copied} of {flush_rows} rows"
        );
        client.batch_execute("COMMIT").await?;
        written += copied;
    }
    Ok(to_f64(written) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(rows: &[&[Option<&[u8]>]]) -> Bytes {
        let mut bytes = vec![7; HEADER_BYTES];
        for row in rows {
            bytes.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
            for field in *row {
                bytes.extend(
                    field
                        .map_or(-1, |field| i32::try_from(field.len()).unwrap())
                        .to_be_bytes(),
                );
                bytes.extend(field.unwrap_or_default());
            }
        }
        bytes.extend(TRAILER);
        bytes.into()
    }

    #[test]
    fn rows_are_cut_at_their_ends_and_begin_anew_after_the_last() {
        let bytes = binary(&[
            &[Some(b"ab"), None],
            &[Some(b""), Some(b"c")],
            &[None, None],
        ]);
        let mut rows = Rows::parse(bytes.clone()).unwrap();
        assert_eq!(rows.ends.len(), 3);
        let body = bytes.slice(HEADER_BYTES..bytes.len() - 2);
        let (first, taken) = rows.take(2);
        assert_eq!((taken, &first), (2, &body.slice(..first.len())));
        let (last, taken) = rows.take(2);
        assert_eq!((taken, &last), (1, &body.slice(first.len()..)));
        assert_eq!(rows.take(5), (body, 3));
    }

    #[test]
    fn a_stream_that_is_cut_short_is_not_taken_for_rows() {
        let bytes = binary(&[&[Some(b"ab")]]);
        assert!(Rows::parse(bytes.slice(..bytes.len() - 2)).is_none());
        assert!(Rows::parse(binary(&[])).is_none());
        assert!(Rows::parse(Bytes::new()).is_none());
    }
}
