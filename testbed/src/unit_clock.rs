//! Wall clocks of units that can be set wrong while the programs run.
//!
//! A unit without a battery starts in 1970, an operator sets the clock by an hour, a receiver of
//! satellite time jumps by years. The program under test stays the shipped one: a few lines of C
//! (`unit_clock.c`) are compiled and preloaded into its process, where they answer for the wall
//! clock. The monotonic clocks stay true, as they do when a real clock is set.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock;
use crate::process::{Launch, RunError};
use crate::workdir::WorkDir;

const SOURCE: &str = include_str!("unit_clock.c");
/// Read by the preloaded lines.
const FILE_VARIABLE: &str = "VERST_UNIT_CLOCK";

/// No such clocks on this machine.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The compiler is missing or fails.
    #[error("clocks that can be set wrong need a C compiler: {0}")]
    Compiler(#[from] RunError),
    /// A file.
    #[error("clock: {0}")]
    Io(#[from] io::Error),
}

/// Where clocks come from; the last clone takes the files with it.
#[derive(Debug, Clone)]
pub struct Clockmaker {
    home: Arc<WorkDir>,
    library: PathBuf,
}

impl Clockmaker {
    /// Compiles the lines.
    ///
    /// # Errors
    /// [`ClockError`].
    pub fn new() -> Result<Self, ClockError> {
        let home = WorkDir::new("clock")?;
        let (source, library) = (home.path().join("clock.c"), home.path().join("clock.so"));
        std::fs::write(&source, SOURCE)?;
        let compile = Launch::new("cc", "cc", "/dev/null").args(["-shared", "-fPIC", "-O1", "-o"]);
        compile.arg(&library).arg(&source).run()?;
        let home = Arc::new(home);
        Ok(Self { home, library })
    }

    /// A true clock under a name of its own.
    ///
    /// # Errors
    /// Its file cannot be made.
    pub fn clock(&self, name: &str) -> io::Result<UnitClock> {
        let path = self.home.path().join(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let clock = UnitClock {
            maker: self.clone(),
            path,
            file,
        };
        clock.set_wrong_by(0)?;
        Ok(clock)
    }
}

/// The wall clock of one unit.
#[derive(Debug)]
pub struct UnitClock {
    maker: Clockmaker,
    path: PathBuf,
    file: File,
}

impl UnitClock {
    /// The program that goes by this clock.
    #[must_use]
    pub fn worn_by(&self, launch: Launch) -> Launch {
        launch
            .env("LD_PRELOAD", &self.maker.library)
            .env(FILE_VARIABLE, &self.path)
    }

    /// Sets it, at once, so many seconds ahead of the truth; 0 is right.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_wrong_by(&self, seconds: i64) -> io::Result<()> {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0)
    }
}

/// What is to be added to the true time to be in the first minute of 1970.
#[must_use]
pub fn back_to_1970_s() -> i64 {
    -(clock::unix_ms() / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(clock: &UnitClock) -> i64 {
        let date = Launch::new("date", "date", "/dev/null").arg("+%s");
        let text = clock.worn_by(date).run().expect("runs");
        text.trim().parse().expect("seconds")
    }

    /// The truth is read on both sides of the program's reading, which takes its time.
    fn assert_shows_the_truth_and(ahead_s: i64, clock: &UnitClock) {
        let truth_s = || clock::unix_ms() / 1_000;
        let before = truth_s();
        let shown = shown(clock) - ahead_s;
        let after = truth_s();
        assert!(
            (before..=after).contains(&shown),
            "{before} {shown} {after}"
        );
    }

    #[test]
    fn a_program_goes_by_the_clock_that_it_wears() {
        let clock = Clockmaker::new().expect("cc").clock("unit").expect("made");
        assert_shows_the_truth_and(0, &clock);
        clock.set_wrong_by(3_600).expect("set");
        assert_shows_the_truth_and(3_600, &clock);
        clock.set_wrong_by(back_to_1970_s()).expect("set");
        assert!((0..60).contains(&shown(&clock)));
    }
}
