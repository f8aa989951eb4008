//! A wire with a meter: forwards one TCP port to another and counts the bytes both ways.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use service::tasks::TaskSet;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const READ_BYTES: usize = 16 * 1_024;

/// Forwards until dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Relay {
    /// To this address, from a port of its own.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (up, down) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = CancellationToken::new();
        let tasks = TaskSet::new(stop.clone());
        let relay = Self {
            address,
            up,
            down,
            stop,
        };
        let (up, down) = (relay.up.clone(), relay.down.clone());
        tasks.clone().spawn("relay", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = tasks.token().cancelled() => return,
                };
                let Ok((near, _)) = accepted else { continue };
                let Ok(far) = TcpStream::connect(to).await else {
                    continue;
                };
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                let stop = tasks.token().clone();
                tasks.spawn(
                    "relay up",
                    forward(near_in, far_out, up.clone(), stop.clone()),
                );
                tasks.spawn("relay down", forward(far_in, near_out, down.clone(), stop));
            }
        });
        Ok(relay)
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes forwarded so far, to the far end and from it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Ends, and thereby closes its end, when either side does.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    count: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            () = stop.cancelled() => return,
        };
        match read {
            Ok(length @ 1..) if to.write_all(&bytes[..length]).await.is_ok() => {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_and_is_counted() {
        let far = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(far.local_addr().unwrap()).await.unwrap();
        let mut near = TcpStream::connect(relay.address()).await.unwrap();
        let (mut far, _) = far.accept().await.unwrap();
        let mut there = vec![0; 100_000];
        let (sent, read) = tokio::join!(near.write_all(&[1; 100_000]), far.read_exact(&mut there));
        sent.unwrap();
        read.unwrap();
        far.write_all(&[2; 7]).await.unwrap();
        let mut back = [0; 7];
        near.read_exact(&mut back).await.unwrap();
        assert_eq!((there, back), (vec![1; 100_000], [2; 7]));
        assert_eq!(relay.bytes(), (100_000, 7));
        drop(far);
        assert_eq!(near.read(&mut back).await.unwrap(), 0);
    }
}
