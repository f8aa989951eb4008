//! ○ The sockets of a link: accepts, connects onward, and moves bytes when [`super::line`] says.
//!
//! Two tasks for each connection, one each way. A sender is held back the way that TCP does it: its
//! bytes are not read. For that the receive buffer and the segment size of the near end are those of
//! a phone's modem, not of a loopback device, which would swallow a megabyte before anybody waits.

mod carrier;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use service::tasks::TaskSet;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::carrier::Carrier;
use super::line::{Flow, Line, Moment, SEGMENT_BYTES_MAX};
use super::{Direction, Plan};

/// Of the near end's socket.
const RECEIVE_BUFFER_BYTES: u32 = 16 * 1_024;
const BACKLOG: u32 = 1_024;

/// What the owner of the link wants at this moment.
#[derive(Debug, Clone, Copy)]
struct Orders {
    /// Where new connections lead.
    to: SocketAddr,
    /// New connections are taken; otherwise they are reset.
    open: bool,
    /// Nothing arrives, and nobody is told: up, down.
    silent: [bool; 2],
    /// Connections of an earlier count are reset.
    cuts: u64,
    /// Connections of an earlier count are forgotten.
    forgets: u64,
}

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Bytes on the wire towards the far end, headers of IP and TCP included.
    pub up_wire_bytes: u64,
    /// The same on the way back.
    pub down_wire_bytes: u64,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Up, down. Locked for the length of a calculation.
    lines: [Mutex<Line>; 2],
    accepted_at: watch::Sender<Option<Instant>>,
}

impl Shared {
    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    fn with_line<T>(&self, direction: Direction, work: impl FnOnce(&mut Line) -> T) -> T {
        let mut line = self.lines[direction as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut line)
    }
}

/// A running link; gone when dropped, its connections with it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    orders: watch::Sender<Orders>,
    stop: CancellationToken,
}

impl Link {
    /// To this address, from a port of its own. The seed decides over jitter and loss.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(to: SocketAddr, plan: Plan, seed: u64) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        // Into the constants of 16 bits that the kernel takes.
        SockRef::from(&socket).set_tcp_mss(u32::try_from(SEGMENT_BYTES_MAX).unwrap_or(u32::MAX))?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (orders, heard) = watch::channel(Orders {
            to,
            open: true,
            silent: [false; 2],
            cuts: 0,
            forgets: 0,
        });
        let shared = Arc::new(Shared {
            start: Instant::now(),
            lines: [
                Mutex::new(Line::new(plan.up, seed)),
                Mutex::new(Line::new(plan.down, seed.wrapping_add(1))),
            ],
            accepted_at: watch::Sender::new(None),
        });
        let stop = CancellationToken::new();
        let tasks = TaskSet::new(stop.clone());
        let gate = Gate {
            shared: shared.clone(),
            orders: heard,
        };
        tasks
            .clone()
            .spawn("link", async move { gate.run(listener, tasks).await });
        Ok(Self {
            address,
            shared,
            orders,
            stop,
        })
    }

    /// Where to connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Another shape from now on, for bytes that come from now on.
    pub fn set_plan(&self, plan: Plan) {
        let set = |direction, shape| {
            self.shared
                .with_line(direction, |line| line.set_shape(shape));
        };
        set(Direction::Up, plan.up);
        set(Direction::Down, plan.down);
    }

    /// New connections lead there from now on, as behind an address that moves.
    pub fn lead_to(&self, to: SocketAddr) {
        self.orders.send_modify(|orders| orders.to = to);
    }

    /// Forgets all connections, as a router does that starts anew: what is sent over them falls on
    /// the floor and nobody is told, not even of an end; a later [`Self::cut`] resets them. New ones
    /// are welcome.
    pub fn forget(&self) {
        self.orders.send_modify(|orders| orders.forgets += 1);
    }

    /// Resets all connections; new ones are welcome.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Resets all connections, and new ones as they come, until [`Self::open`].
    pub fn close(&self) {
        self.orders.send_modify(|orders| {
            orders.cuts += 1;
            orders.open = false;
        });
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.orders.send_modify(|orders| orders.open = true);
    }

    /// Nothing arrives in this direction any more and nobody is told, or it does again: what was
    /// held meanwhile then comes, as TCP would send it again. For a connection that never comes
    /// back, [`Self::cut`] before the end of the silence.
    pub fn silence(&self, direction: Direction, silent: bool) {
        self.orders
            .send_modify(|orders| orders.silent[direction as usize] = silent);
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let now = self.shared.now();
        let wire_bytes = |direction| {
            self.shared
                .with_line(direction, |line| line.wire_bytes(now))
        };
        LinkCounts {
            up_wire_bytes: wire_bytes(Direction::Up),
            down_wire_bytes: wire_bytes(Direction::Down),
        }
    }

    /// When the last connection was taken; waits for the next change with `changed`.
    #[must_use]
    pub fn accepted(&self) -> watch::Receiver<Option<Instant>> {
        self.shared.accepted_at.subscribe()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes connections.
struct Gate {
    shared: Arc<Shared>,
    orders: watch::Receiver<Orders>,
}

impl Gate {
    async fn run(self, listener: TcpListener, tasks: TaskSet) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tasks.token().cancelled() => return,
            };
            let Ok((near, _)) = accepted else { continue };
            let orders = *self.orders.borrow();
            if !orders.open {
                reset(&near);
                continue;
            }
            self.shared.accepted_at.send_replace(Some(Instant::now()));
            let Ok(far) = TcpStream::connect(orders.to).await else {
                reset(&near);
                continue;
            };
            // Whatever is late here is late on purpose.
            if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
                continue;
            }
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let carry = |direction, from, to| Carrier {
                direction,
                from: Some(from),
                to,
                flow: Flow::default(),
                cuts: orders.cuts,
                forgets: orders.forgets,
                orders: self.orders.clone(),
                shared: self.shared.clone(),
                stop: tasks.token().clone(),
            };
            tasks.spawn("link up", carry(Direction::Up, near_in, far_out).run());
            tasks.spawn("link down", carry(Direction::Down, far_in, near_out).run());
        }
    }
}

/// When it is dropped, the peer gets a reset instead of a goodbye.
fn reset(socket: &TcpStream) {
    // A socket that is gone already needs no reset.
    drop(SockRef::from(socket).set_linger(Some(Duration::ZERO)));
}

#[cfg(test)]
mod tests;
