//! One step of a TLS socket in both directions at once.
//!
//! Under [`crate::connection`], which decides whether to write and whether to read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

/// What the socket did.
#[derive(Default)]
pub struct Moved {
    /// Bytes read; 0 is the end of the stream.
    pub read: Option<usize>,
    /// Bytes written, or none if the socket took nothing.
    pub written: Option<usize>,
}

/// Writes `outbox` if it is given, then reads into `inbox` if it is given; ready when either moved.
///
/// # Errors
/// The connection is lost.
pub fn poll_socket(
    cx: &mut Context<'_>,
    stream: &mut TlsStream<TcpStream>,
    inbox: Option<&mut BytesMut>,
    outbox: Option<&mut BytesMut>,
    unflushed: &mut bool,
) -> Poll<io::Result<Moved>> {
    let mut moved = Moved::default();
    let mut empty = BytesMut::new();
    let outbox = outbox.unwrap_or(&mut empty);
    while !outbox.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, outbox)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(count) => {
                outbox.advance(count);
                moved.written = Some(moved.written.unwrap_or_default() + count);
                *unflushed = true;
            }
            Poll::Pending => break,
        }
    }
    if *unflushed && outbox.is_empty() && Pin::new(&mut *stream).poll_flush(cx)?.is_ready() {
        moved.written = moved.written.or(Some(0));
        *unflushed = false;
    }
    let read = match inbox {
        Some(inbox) => poll_read_buf(Pin::new(stream), cx, inbox)?,
        None => Poll::Pending,
    };
    if moved.written.is_none() {
        moved.read = Some(ready!(read));
    } else if let Poll::Ready(count) = read {
        moved.read = Some(count);
    }
    Poll::Ready(Ok(moved))
}
