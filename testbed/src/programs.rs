//! Where the built programs are.

use std::path::{Path, PathBuf};

/// Overrides the directory.
pub const DIRECTORY_VARIABLE: &str = "VERST_BIN_DIR";

/// The directory with `broker`, `aggregator` and `edge-agent`.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

/// Not all of them are built.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is missing: build the programs (cargo build --workspace --bins) or set {DIRECTORY_VARIABLE}",
    .0.display()
)]
pub struct MissingProgram(PathBuf);

impl Programs {
    /// Beside this program: the same profile of the same build. Tests lie one level deeper.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find() -> Result<Self, MissingProgram> {
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.parent().unwrap_or(Path::new("."));
        let beside = if beside.ends_with("deps") {
            beside.parent().unwrap_or(beside)
        } else {
            beside
        };
        let directory =
            std::env::var_os(DIRECTORY_VARIABLE).map_or_else(|| beside.to_owned(), PathBuf::from);
        let programs = Self { directory };
        for program in [programs.broker(), programs.aggregator(), programs.agent()] {
            if !program.is_file() {
                return Err(MissingProgram(program));
            }
        }
        Ok(programs)
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> PathBuf {
        self.directory.join("broker")
    }

    /// The aggregator.
    #[must_use]
    pub fn aggregator(&self) -> PathBuf {
        self.directory.join("aggregator")
    }

    /// The edge agent.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.directory.join("edge-agent")
    }
}
