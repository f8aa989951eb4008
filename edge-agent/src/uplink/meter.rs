//! Counts what the link carries, and keeps the count of the day on the disk while a day is limited.
//!
//! Around [`Allowance`], which decides. The file is written at most once a minute and at the end: a
//! power cut forgives that much.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::EventTime;

use super::allowance::{Allowance, CONNECTION_BYTES, Judgement, KEEP_ALIVE_BYTES, Rules, Spent};
use super::backoff::Millis;

/// The file beside the store.
const FILE: &str = "uplink-day";

/// The least between two writes.
const WRITE_EVERY_MS: Millis = 60_000;

/// See the module.
#[derive(Debug)]
pub struct Meter {
    allowance: Allowance,
    file: PathBuf,
    written: Spent,
    write_at: Millis,
}

/// A count that is to be written down.
#[derive(Debug)]
pub struct Page {
    file: PathBuf,
    spent: Spent,
}

impl Meter {
    /// Goes on with the count in the buffer's directory, if there is one.
    #[must_use]
    pub fn open(rules: Rules, directory: &Path) -> Self {
        let file = directory.join(FILE);
        let found = std::fs::read_to_string(&file).ok();
        let written = found
            .and_then(|line| Spent::parse(&line))
            .unwrap_or_default();
        Self {
            allowance: Allowance::new(rules, written),
            file,
            written,
            write_at: 0,
        }
    }

    /// A frame went, one way or the other.
    pub fn frame(&mut self, wall: EventTime, bytes: usize) {
        self.allowance.spend(wall, bytes);
    }

    /// A connection was made.
    pub fn connection(&mut self, wall: EventTime) {
        self.allowance.spend_bytes(wall, CONNECTION_BYTES);
    }

    /// A keep-alive was answered.
    pub fn keep_alive(&mut self, wall: EventTime) {
        self.allowance.spend_bytes(wall, KEEP_ALIVE_BYTES);
    }

    /// What may travel at this time.
    #[must_use]
    pub fn judge(&self, wall: EventTime) -> Judgement {
        self.allowance.judge(wall)
    }

    /// Bytes of the day that it is at this time, and how many it may have.
    #[must_use]
    pub fn day(&self, now: EventTime) -> (u64, Option<u64>) {
        (
            self.allowance.spent_by(now),
            self.allowance.daily_bytes_max(),
        )
    }

    /// What is to be written down now, if anything.
    pub fn page(&mut self, now: Millis) -> Option<Page> {
        if now < self.write_at {
            return None;
        }
        self.write_at = now + WRITE_EVERY_MS;
        self.last_page()
    }

    /// What is to be written down at the end.
    pub fn last_page(&mut self) -> Option<Page> {
        let spent = self.allowance.spent();
        if self.allowance.daily_bytes_max().is_none() || spent == self.written {
            return None;
        }
        self.written = spent;
        Some(Page {
            file: self.file.clone(),
            spent,
        })
    }
}

impl Page {
    /// Replaces the file. Blocks.
    ///
    /// # Errors
    /// When the disk refuses; the file before it stays.
    pub fn write(&self) -> io::Result<()> {
        let beside = self.file.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(self.spent.line().as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&beside, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_the_day_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let rules = Rules {
            daily_bytes_max: Some(1_000_000),
            ..Rules::default()
        };
        let wall = EventTime::from_millis(1_743_850_530_000);
        let mut meter = Meter::open(rules.clone(), directory.path());
        assert!(meter.page(0).is_none());
        meter.connection(wall);
        meter.frame(wall, 880);
        assert!(meter.page(1_000).is_none(), "not more than once a minute");
        meter.page(60_000).unwrap().write().unwrap();
        assert!(meter.last_page().is_none());
        let again = Meter::open(rules, directory.path());
        let day = (6 * 1_024 + 1_000, Some(1_000_000));
        assert_eq!(again.day(wall), day);
        let tomorrow = EventTime::from_millis(wall.as_millis() + 86_400_000);
        assert_eq!(again.day(tomorrow), (0, Some(1_000_000)));
    }

    #[test]
    fn without_a_limit_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut meter = Meter::open(Rules::default(), directory.path());
        meter.frame(EventTime::from_millis(1), 1 << 30);
        assert!(meter.page(60_000).is_none() && meter.last_page().is_none());
    }
}
