//! The threads on which a program of the centre waits.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime on half of the machine's cores: beside it each program has threads of its own, which
/// route, decode or answer, and under light load every further thread costs a wake-up a message.
///
/// # Errors
/// When threads cannot be made.
pub fn half_the_cores(thread_name: &str) -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(2))
        .thread_name(thread_name)
        .enable_all()
        .build()
}
