//! Exit codes, the same in every program, so that scripts and service managers can rely on them.
//!
//! Use as `std::process::ExitCode::from(exit::CONFIG)`.

/// Done, or healthy.
pub const OK: u8 = 0;
/// It ran and failed; for a status command: running, but degraded.
pub const FAILURE: u8 = 1;
/// The command line makes no sense (what clap uses, too).
pub const USAGE: u8 = 2;
/// For a status command: the program does not run or does not answer.
pub const NOT_RUNNING: u8 = 2;
/// The configuration is faulty. A restart cannot mend it: `RestartPreventExitStatus=78`
/// (`EX_CONFIG` of sysexits.h).
pub const CONFIG: u8 = 78;
/// A second SIGINT or SIGTERM cut the orderly stop short (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;
