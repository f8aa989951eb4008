//! One direction of one connection: reads, waits for the line, writes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::super::Direction;
use super::super::line::Flow;
use super::{Orders, Shared, reset};

/// Bytes of one connection on their way in one direction, at most: 8 Mbit/s over a second.
const FLOW_BYTES_MAX: usize = 1_024 * 1_024;
const READ_BYTES: usize = 16 * 1_024;
/// Farther than any run lasts.
const FAR: Duration = Duration::from_secs(30 * 24 * 3_600);

/// One direction of one connection.
pub(super) struct Carrier {
    pub(super) direction: Direction,
    /// None once its end was read.
    pub(super) from: Option<OwnedReadHalf>,
    pub(super) to: OwnedWriteHalf,
    pub(super) flow: Flow,
    pub(super) cuts: u64,
    pub(super) forgets: u64,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
}

enum Event {
    Read(io::Result<usize>),
    Due,
    Orders,
    Stop,
}

impl Carrier {
    pub(super) async fn run(mut self) {
        if self.carry().await.is_err() {
            // The other end learns of it the hard way, as from a router that forgot the connection.
            reset(self.to.as_ref());
            self.to.forget();
        }
    }

    /// Until everything has arrived after the end of what is read.
    async fn carry(&mut self) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let stop = self.stop.clone();
        loop {
            let orders = *self.orders.borrow_and_update();
            if orders.cuts != self.cuts {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if orders.forgets != self.forgets {
                return self.swallow().await;
            }
            let silent = orders.silent[self.direction as usize];
            if !silent {
                self.deliver().await?;
                if self.is_over() {
                    continue;
                }
                if self.from.is_none() && self.flow.bytes() == 0 {
                    return self.to.shutdown().await;
                }
            }
            let now = self.shared.now();
            let (room, room_at) = self
                .shared
                .with_line(self.direction, |line| (line.room(now), line.room_at()));
            let room = room.min(FLOW_BYTES_MAX.saturating_sub(self.flow.bytes()));
            let next_at = self.flow.next_at().filter(|_| !silent);
            let room_at = room_at.filter(|_| room == 0);
            let wake = next_at.into_iter().chain(room_at).min().unwrap_or(FAR);
            let wake_at = self.shared.start + wake.min(FAR);
            let event = tokio::select! {
                read = read(self.from.as_mut(), &mut buffer, room) => Event::Read(read),
                () = sleep_until(wake_at) => Event::Due,
                changed = self.orders.changed() => match changed {
                    Ok(()) => Event::Orders,
                    Err(_) => Event::Stop,
                },
                () = stop.cancelled() => Event::Stop,
            };
            match event {
                Event::Read(read) => {
                    if read? == 0 {
                        self.from = None;
                    }
                    let (bytes, now) = (buffer.split().freeze(), self.shared.now());
                    let flow = &mut self.flow;
                    self.shared
                        .with_line(self.direction, |line| flow.offer(line, now, bytes));
                }
                Event::Due | Event::Orders => {}
                Event::Stop => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    /// Cut or forgotten.
    fn is_over(&self) -> bool {
        let orders = self.orders.borrow();
        (orders.cuts, orders.forgets) != (self.cuts, self.forgets)
    }

    /// Takes what is sent, to no effect, until a cut or the end of the link.
    async fn swallow(&mut self) -> io::Result<()> {
        let mut hole = BytesMut::with_capacity(READ_BYTES);
        loop {
            tokio::select! {
                read = read(self.from.as_mut(), &mut hole, READ_BYTES) => {
                    if !matches!(read, Ok(1..)) {
                        self.from = None;
                    }
                    hole.clear();
                }
                cut = self.orders.wait_for(|orders| orders.cuts != self.cuts) => {
                    drop(cut);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                () = self.stop.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    /// Writes what has arrived. A far end that does not read holds this up until the connection is
    /// cut or forgotten.
    async fn deliver(&mut self) -> io::Result<()> {
        let (cuts, forgets) = (self.cuts, self.forgets);
        while let Some(bytes) = self.flow.take(self.shared.now()) {
            let ended = self
                .orders
                .wait_for(|orders| orders.cuts != cuts || orders.forgets != forgets);
            tokio::select! {
                written = self.to.write_all(&bytes) => written?,
                ended = ended => {
                    drop(ended);
                    return Ok(());
                }
                () = self.stop.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(())
    }
}

/// At most so many bytes; waits for ever where there is no room or nothing more to read.
async fn read(
    from: Option<&mut OwnedReadHalf>,
    buffer: &mut BytesMut,
    room: usize,
) -> io::Result<usize> {
    match from {
        Some(from) if room > 0 => {
            buffer.reserve(READ_BYTES);
            from.take(room.min(READ_BYTES) as u64)
                .read_buf(buffer)
                .await
        }
        _ => std::future::pending().await,
    }
}
