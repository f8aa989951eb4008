//! A connection that does not wait for ever to be read.
//!
//! Invariant: from the moment when the socket is full until all that waits is written, a peer has so
//! much patience, and each [`LEAST_BYTES_PER_S`] that it takes give it a second more, never beyond the
//! whole patience from then on. After that writing fails, which ends the connection and frees its
//! place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A peer that reads at this rate is waited for, however long its answer is.
pub(super) const LEAST_BYTES_PER_S: u32 = 4 * 1024;

/// A socket with a limit on how long its peer may leave it full.
pub(super) struct Patient<S> {
    inner: S,
    patience: Duration,
    /// While something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(inner: S, patience: Duration) -> Self {
        Self {
            inner,
            patience,
            deadline: None,
        }
    }

    /// Nothing was taken: whether the peer has had its time.
    fn waited(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        deadline
            .as_mut()
            .poll(context)
            .map(|()| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer"))
    }

    /// So much was taken: the deadline moves by what the least rate allows for it.
    fn took(&mut self, bytes: usize) {
        if let Some(deadline) = &mut self.deadline {
            let until = moved(deadline.deadline(), bytes, Instant::now() + self.patience);
            deadline.as_mut().reset(until);
        }
    }
}

/// Where a deadline moves when so much was taken, but no further than `latest`. Pure.
fn moved(deadline: Instant, bytes: usize, latest: Instant) -> Instant {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let allowed = Duration::from_secs(1) * bytes / LEAST_BYTES_PER_S;
    (deadline + allowed).min(latest)
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(context, bytes) {
            Poll::Ready(Ok(count)) => {
                self.took(count);
                Poll::Ready(Ok(count))
            }
            Poll::Pending => self.waited(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write_vectored(context, parts) {
            Poll::Ready(Ok(count)) => {
                self.took(count);
                Poll::Ready(Ok(count))
            }
            Poll::Pending => self.waited(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(context) {
            Poll::Ready(Ok(())) => {
                // Everything is written.
                self.deadline = None;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.waited(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_shutdown(context) {
            Poll::Pending => self.waited(context).map(Err),
            done @ Poll::Ready(_) => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds a peer is given up that takes so many bytes in each, by a patience of
    /// 30 s; none: not within a day.
    fn given_up_after(bytes_per_s: usize) -> Option<u64> {
        let (start, patience) = (Instant::now(), Duration::from_secs(30));
        let mut deadline = start + patience;
        (1..86_400).find(|second| {
            let now = start + Duration::from_secs(*second);
            let is_over = deadline <= now;
            deadline = moved(deadline, bytes_per_s, now + patience);
            is_over
        })
    }

    #[test]
    fn a_peer_that_reads_at_the_least_rate_is_waited_for_and_a_slower_one_is_not() {
        for (bytes_per_s, after) in [
            (0, Some(30)),
            (2 * 1024, Some(59)),
            (3 * 1024, Some(117)),
            (4 * 1024, None),
            (1 << 40, None),
        ] {
            assert_eq!(given_up_after(bytes_per_s), after, "{bytes_per_s} bytes/s");
        }
    }
}
