//! ○ Threads that answer questions and do nothing else.
//!
//! Whoever asks waits neither behind a flush that is being planned nor behind passages that arrive:
//! threads that were idle are given the processor first. And an answer, its connection and that to
//! the database stay on one thread, which spares it most of the wake-ups.

use std::net::SocketAddr;

use axum::Router;
use service::serve::{Endpoint, HttpListener, Limits, ListenError, http};
use service::tasks::TaskSet;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No threads.
    #[error("cannot start the API's threads: {0}")]
    Threads(#[from] std::io::Error),
    /// They ended at once; the set of tasks knows why.
    #[error("the API's threads ended at once")]
    Ended,
}

/// Answers with `router` until `stop`. Returns where.
///
/// # Errors
/// When it cannot begin to.
pub async fn serve(
    listen: SocketAddr,
    router: Router,
    limits: Limits,
    tasks: &TaskSet,
    stop: CancellationToken,
) -> Result<Option<SocketAddr>, ServeError> {
    let runtime = service::runtime::half_the_cores("api")?;
    let (bound, listens) = oneshot::channel();
    tasks.spawn_blocking_thread("api", move || {
        runtime.block_on(async {
            let listener = match HttpListener::bind(&Endpoint::Tcp(listen)).await {
                Ok(listener) => listener,
                // Nobody waits any more only when the program ends.
                Err(error) => return drop(bound.send(Err(error))),
            };
            drop(bound.send(Ok(listener.local_addr())));
            http(listener, router, stop, limits).await;
        });
    });
    Ok(listens.await.map_err(|_| ServeError::Ended)??)
}
