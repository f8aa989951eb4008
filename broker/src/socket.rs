//! One step of a TLS socket in both directions at once, the room that it reads into, and its end.
//!
//! Under [`crate::connection`], which decides whether to write and whether to read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

/// Room that a read begins with. Most connections are idle most of the time.
const READ_BYTES_MIN: usize = 4 * 1024;
/// The plain text of one TLS record, at most: no read brings more.
const TLS_RECORD_BYTES: usize = 16 * 1024;
/// Room that reads have while they are filled: a message of several records is moved less often.
const READ_BYTES_MAX: usize = 64 * 1024;

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

/// Room for the next read: as much as the last one suggests, and little for who is quiet.
pub fn make_room(inbox: &mut BytesMut, last_read: usize) {
    let room = match last_read {
        0..READ_BYTES_MIN => READ_BYTES_MIN,
        READ_BYTES_MIN..TLS_RECORD_BYTES => TLS_RECORD_BYTES,
        _ => READ_BYTES_MAX,
    };
    if inbox.is_empty() && inbox.capacity() > 4 * room {
        *inbox = BytesMut::new();
    }
    inbox.reserve(room);
}

/// Writes the last bytes and closes, for as long as the peer may take to read them: who does not
/// misses nothing that it was promised.
pub async fn say_last<S: AsyncWrite + Unpin>(stream: &mut S, words: &[u8], patience: Duration) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await
    };
    drop(timeout(patience, said).await);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;
    use crate::config::PACKET_BYTES_MAX;

    /// How long anything may take before a test gives up.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn room_for_reads_is_bounded_and_given_back() {
        let mut inbox = BytesMut::with_capacity(PACKET_BYTES_MAX + READ_BYTES_MAX);
        for (last_read, room_max) in [
            (TLS_RECORD_BYTES, 4 * READ_BYTES_MAX),
            (READ_BYTES_MIN, 4 * TLS_RECORD_BYTES),
            (READ_BYTES_MIN - 1, 4 * READ_BYTES_MIN),
        ] {
            make_room(&mut inbox, last_read);
            let room = inbox.capacity();
            assert!(room <= room_max, "{room} bytes after {last_read}");
            assert!(room >= READ_BYTES_MIN, "{room} bytes after {last_read}");
        }
        make_room(&mut inbox, TLS_RECORD_BYTES);
        assert!(inbox.capacity() >= READ_BYTES_MAX, "it grows again");
    }

    #[tokio::test]
    async fn last_words_wait_for_who_reads_and_not_for_ever() {
        let words = [7; 20];
        let (mut near, mut far) = duplex(8);
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(
            far.read_to_end(&mut heard),
            say_last(&mut near, &words, PATIENCE)
        );
        assert_eq!((read.unwrap(), &heard[..]), (words.len(), &words[..]));

        let (mut near, mut far) = duplex(8);
        timeout(PATIENCE, say_last(&mut near, &words, Duration::ZERO))
            .await
            .expect("who does not read is not waited for");
        drop(near);
        heard.clear();
        assert_eq!(far.read_to_end(&mut heard).await.unwrap(), 8);
    }
}
