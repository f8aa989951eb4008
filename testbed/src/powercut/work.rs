//! The recorded writer: a real buffer that is filled, folded and receipted, and says what it promises.
//!
//! Each line on standard output waits for a line on standard input, so that whoever records knows
//! what was on the disk when it was said. Where nobody answers (the input ends at once), the order of
//! system calls in the recording says the same.
//!
//! ```text
//! stream S          the passages to come have numbers in this stream: passage n is number n + 1
//! acknowledged N    passages 0 to N - 1 were accepted
//! sealed C          a summary with this checksum left
//! receipted N       the centre has passages 0 to N - 1: from here on a lost one is no loss
//! ```

use std::io::{BufRead, Write};
use std::path::Path;

use edge_agent::buffer::{Admitted, BufferSettings, FoldScope, QuotaPolicy};
use proto::passage::{EventTime, Passage, Speed};
use proto::ranges::{Seq, SeqRange, SeqSet};

use crate::held::{self, CENTRE, HeldError, checksum, receipt, with_buffer};

/// Group commits of one recording.
const COMMITS: usize = 220;

/// Passages of these, by turns.
const COMMIT_PASSAGES: [u64; 6] = [1, 3, 64, 1, 150, 17];

/// Event times are the passages' numbers counted from here.
const EPOCH_MS: i64 = 1_743_848_130_000;

/// Small enough that sent copies are deleted and their space is used again.
const QUOTA_BYTES: u64 = 48 * 1024;

/// All windows take summaries, and all passages are old enough.
pub(crate) const ANY: FoldScope = FoldScope {
    to: u64::MAX,
    if_before: None,
    windows_from: EventTime::from_millis(0),
    windows_to: EventTime::from_millis(2 * EPOCH_MS),
};

/// Of the buffer below the top of a disk.
pub(super) fn settings(root: &Path) -> BufferSettings {
    held::settings(&root.join("buffer"), QUOTA_BYTES, QuotaPolicy::RefuseNew)
}

/// Passage `number` of the recording.
pub(crate) fn passage(number: u64) -> Admitted {
    let number_ms = i64::try_from(number).unwrap_or(i64::MAX);
    let centi_kmh = u16::try_from(number * 7_919 % 20_000).unwrap_or(0);
    let passage = Passage {
        event_time: EventTime::from_millis(EPOCH_MS + number_ms),
        speed: Speed::from_centi_kmh(centi_kmh),
        ..Passage::default()
    };
    Admitted {
        passage,
        event_id: None,
    }
}

/// The number of a passage, from its time.
pub(super) fn number_of(passage: &Passage) -> Option<u64> {
    u64::try_from(passage.event_time.as_millis() - EPOCH_MS).ok()
}

/// Writes to a buffer in the directory and tells on standard output: bursts and single passages, now
/// and then summaries that leave, and now and then a receipt.
///
/// # Errors
/// What kept it from writing.
pub fn write_and_tell(directory: &Path) -> Result<(), HeldError> {
    with_buffer(&settings(directory), async |buffer| {
        let mut sent = 0_u64;
        for commit in 0..COMMITS {
            let count = COMMIT_PASSAGES[commit % COMMIT_PASSAGES.len()];
            let appended = buffer.append((sent..sent + count).map(passage).collect());
            appended.await?;
            let stream = buffer.state().borrow().streams[0].id;
            if commit == 0 {
                tell(&format!("stream {stream}"))?;
            }
            sent += count;
            tell(&format!("acknowledged {sent}"))?;
            if commit % 5 == 3 {
                buffer.fold(stream, ANY).await?;
                for pending in buffer.pending_summaries(stream, usize::MAX).await? {
                    tell(&format!("sealed {}", checksum(&pending)?))?;
                }
            }
            if commit % 7 == 6 {
                tell(&format!("receipted {sent}"))?;
                let range = SeqRange::from_count(Seq::FIRST, sent);
                let all = range.map(SeqSet::from).unwrap_or_default();
                let receipt = receipt(stream, all.clone(), all);
                buffer.receipt(CENTRE, vec![receipt]).await?;
            }
        }
        Ok(())
    })
}

fn tell(line: &str) -> Result<(), HeldError> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
