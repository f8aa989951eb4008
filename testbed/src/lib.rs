//! A simulated fleet, the whole of Verst on one machine, faults, and benchmarks.
//!
//! Stands beside the path of a passage, not on it: it starts the real programs, feeds them, breaks
//! them, and checks what the database holds against an independent recomputation.
//!
//! Invariants: nothing started here outlives this process, whatever ends it; nothing written here
//! stays behind outside the build directory; the programs are the built binaries, never linked in.
//! Some link their libraries: the simulator ([`sim`]) runs their decisions without their I/O; power
//! cuts ([`powercut`]) and damage ([`damage`]) work on the agent's buffer; [`pki`] has the broker's
//! authority issue what no operator would: a certificate of yesterday.

pub mod attack;
pub mod bench;
pub mod chaos;
pub mod clock;
pub mod damage;
pub mod demo;
pub mod feed;
pub mod fleet;
pub mod held;
pub mod kills;
pub mod link;
pub mod pki;
pub mod postgres;
pub mod powercut;
pub mod process;
pub mod programs;
pub mod recompute;
pub mod replay;
pub mod sim;
pub mod small_disk;
pub mod synthetic;
pub mod system;
pub mod unit_clock;
pub mod workdir;
