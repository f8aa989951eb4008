//! An HTTP/1.1 client that costs next to nothing: one kept-alive connection, whole requests made
//! beforehand, answers read only as far as their status and length; the body is handed on as it is.
//!
//! For load only. It understands answers with a `content-length`; anything else is an error.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's head, at most.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// An answer's body, at most.
const BODY_BYTES_MAX: usize = 16 * 1_024 * 1_024;
const READ_BYTES: usize = 64 * 1_024;

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: BytesMut,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// As it came.
    pub body: Bytes,
}

/// The bytes of a GET.
#[must_use]
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

/// The bytes of a POST.
#[must_use]
pub fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As TCP.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: BytesMut::with_capacity(READ_BYTES),
        })
    }

    /// Sends a request and reads its answer to the end. After an error the connection is of no use.
    ///
    /// # Errors
    /// As TCP, and when the answer is not understood.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let (status, body_bytes) = loop {
            if let Some((head_bytes, status, body_bytes)) = read_head(&self.received)? {
                self.received.advance(head_bytes);
                break (status, body_bytes);
            }
            self.read().await?;
        };
        while self.received.len() < body_bytes {
            self.read().await?;
        }
        let body = self.received.split_to(body_bytes).freeze();
        Ok(Answer { status, body })
    }

    async fn read(&mut self) -> io::Result<()> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The same for a thread that waits, without the body.
#[derive(Debug)]
pub struct Waiting {
    stream: std::net::TcpStream,
    received: Box<[u8]>,
}

impl Waiting {
    /// Connects.
    ///
    /// # Errors
    /// As TCP.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let received = vec![0; READ_BYTES].into_boxed_slice();
        Ok(Self { stream, received })
    }

    /// Sends a request and reads its answer to the end; returns the status.
    ///
    /// # Errors
    /// As TCP, and when the answer is not understood.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        let (status, mut left) = loop {
            filled += self.read(filled)?;
            if let Some((head_bytes, status, body_bytes)) = read_head(&self.received[..filled])? {
                break (status, (head_bytes + body_bytes).saturating_sub(filled));
            }
        };
        while left > 0 {
            left = left.saturating_sub(self.read(0)?);
        }
        Ok(status)
    }

    fn read(&mut self, from: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.received[from..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        }
    }
}

/// The head's length, the status and the body's length, once the head is complete.
fn read_head(received: &[u8]) -> io::Result<Option<(usize, u16, usize)>> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return match received.len() {
            0..HEAD_BYTES_MAX => Ok(None),
            _ => Err(invalid("head of the answer is too long")),
        };
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| invalid("head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    match (status, length) {
        (Some(status), Some(body_bytes)) if body_bytes <= BODY_BYTES_MAX => {
            Ok(Some((end + 4, status, body_bytes)))
        }
        _ => Err(invalid("answer has no status or no usable content-length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let head = b"HTTP/1.1 204 No\r\nx: y\r\nContent-Length: 5\r\n\r\n";
        for end in 0..head.len() {
            assert!(read_head(&head[..end]).unwrap().is_none());
        }
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(b"hello");
        assert_eq!(read_head(&bytes).unwrap(), Some((head.len(), 204, 5)));
    }

    #[test]
    fn heads_without_a_length_or_without_end_are_refused() {
        assert!(read_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(read_head(b"nonsense\r\n\r\n").is_err());
        assert!(read_head(&vec![b'x'; HEAD_BYTES_MAX]).is_err());
    }
}
