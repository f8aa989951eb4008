//! The I/O of one simulated unit: connects, subscribes, and moves bytes between the socket and the
//! [`Unit`] that decides.
//!
//! One task per unit, which sleeps until the unit has something to do or the centre speaks. All
//! that may leave at one moment leaves in one write.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::{DeviceId, Shard, topic};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use service::tls::{TimeFloor, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::mqtt::{self, MqttError, Packet};
use super::unit::{Counts, Cut, Unit};
use super::wire::CountedStream;
use super::{Clock, Credentials, Posted, Recorder};

/// TCP, TLS, CONNECT and SUBSCRIBE together.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A write that the broker does not take for so long ends the connection.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
const KEEP_ALIVE_S: u16 = 30;
/// A ping leaves when nothing else did for so long.
const PING_AFTER_MS: i64 = 15_000;
const BACKOFF_MS_MIN: i64 = 250;
const BACKOFF_MS_MAX: i64 = 5_000;
/// Offline, vehicles go on passing; they are let through at least this often.
const OFFLINE_LOOK_MS: i64 = 1_000;
const SUBSCRIBE_ID: u16 = 1;
const READ_BYTES: usize = 4 * 1_024;

/// What the owner of the fleet wants of its units at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orders {
    /// New offers may leave.
    pub(super) offer: bool,
    /// Vehicles come.
    pub(super) road_open: bool,
}

/// What all units of a fleet share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) broker: SocketAddr,
    pub(super) server_name: ServerName<'static>,
    pub(super) counters: Arc<Counters>,
    /// Handshakes at one time.
    pub(super) connecting: Semaphore,
    pub(super) recorder: Option<Recorder>,
    pub(super) stop: CancellationToken,
}

/// One unit with what it needs to connect.
pub(super) struct Member {
    pub(super) device: DeviceId,
    pub(super) credentials: Credentials,
    pub(super) unit: Unit,
    pub(super) orders: watch::Receiver<Orders>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error("no answer within {} s", CONNECT_WITHIN.as_secs())]
    Silent,
    #[error("broker refuses the connection with code {0}")]
    Refused(u8),
    #[error("broker refuses a subscription")]
    SubscriptionRefused,
    #[error("broker closed the connection")]
    Closed,
}

type Tls = TlsStream<CountedStream>;

enum Event {
    Read(io::Result<usize>),
    Woken,
    Stop,
}

/// Runs a unit until the fleet stops.
pub(super) async fn run(member: Member, shared: Arc<Shared>) -> Result<(), TlsError> {
    let config = Arc::new(client_config(&member.credentials)?);
    let mut runner = Runner {
        up: topic::up(&member.device),
        down: topic::down(&member.device),
        beacon: topic::beacon(Shard::of(&member.device)),
        device: member.device,
        unit: member.unit,
        orders: member.orders,
        config,
        shared,
        reported: Counts::default(),
        closed: false,
        last_packet_id: SUBSCRIBE_ID,
        publish: Vec::new(),
        received: BytesMut::new(),
        early: Vec::new(),
        out: BytesMut::new(),
    };
    runner.run().await;
    Ok(())
}

fn client_config(credentials: &Credentials) -> Result<ClientConfig, TlsError> {
    let identity = service::tls::load_identity(&credentials.cert, &credentials.key)?;
    let mut config = service::tls::client_config(&identity, &credentials.roots, &TimeFloor::new())?;
    // A unit that reconnects proves itself anew, as after a restart; and a thousand caches are saved.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

struct Runner {
    device: DeviceId,
    unit: Unit,
    orders: watch::Receiver<Orders>,
    config: Arc<ClientConfig>,
    shared: Arc<Shared>,
    up: String,
    down: String,
    beacon: String,
    /// The unit's counts as the fleet's counters know them.
    reported: Counts,
    closed: bool,
    last_packet_id: u16,
    publish: Vec<Bytes>,
    received: BytesMut,
    /// Messages that came before the subscription was answered.
    early: Vec<Packet>,
    out: BytesMut,
}

impl Runner {
    async fn run(&mut self) {
        let stop = self.shared.stop.clone();
        let mut failures = 0;
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = self.connect() => connected,
            };
            match connected {
                Ok(stream) => {
                    failures = 0;
                    let counters = self.shared.counters.clone();
                    counters.connections.fetch_add(1, Ordering::Relaxed);
                    counters.connected.fetch_add(1, Ordering::Relaxed);
                    self.unit.connected(self.shared.clock.now_ms());
                    let ended = self.session(stream).await;
                    self.unit.disconnected();
                    counters.connected.fetch_sub(1, Ordering::Relaxed);
                    let Err(error) = ended else { return };
                    tracing::debug!(device = %self.device, %error, "connection of a unit ended");
                }
                Err(error) => {
                    tracing::debug!(device = %self.device, %error, "unit cannot connect");
                }
            }
            self.shared
                .counters
                .failed_connections
                .fetch_add(1, Ordering::Relaxed);
            failures = (failures + 1).min(16);
            self.stay_offline((BACKOFF_MS_MIN << failures).min(BACKOFF_MS_MAX))
                .await;
        }
    }

    async fn connect(&mut self) -> Result<Tls, LinkError> {
        let (config, shared) = (self.config.clone(), self.shared.clone());
        let _permit = shared
            .connecting
            .acquire()
            .await
            .map_err(|_| LinkError::Closed)?;
        let connecting = async {
            let socket = TcpStream::connect(shared.broker).await?;
            socket.set_nodelay(true)?;
            let counted = CountedStream::new(socket, shared.counters.clone());
            let tls = TlsConnector::from(config);
            let mut stream = tls.connect(shared.server_name.clone(), counted).await?;
            self.shake_hands(&mut stream).await?;
            Ok(stream)
        };
        timeout(CONNECT_WITHIN, connecting)
            .await
            .unwrap_or(Err(LinkError::Silent))
    }

    async fn shake_hands(&mut self, stream: &mut Tls) -> Result<(), LinkError> {
        self.received.clear();
        self.early.clear();
        self.out.clear();
        mqtt::put_connect(&mut self.out, self.device.as_str(), KEEP_ALIVE_S);
        stream.write_all(&self.out).await?;
        stream.flush().await?;
        match self.next_packet(stream).await? {
            Packet::ConnAck(0) => {}
            Packet::ConnAck(code) => return Err(LinkError::Refused(code)),
            other => return Err(unexpected(&other)),
        }
        self.out.clear();
        mqtt::put_subscribe(&mut self.out, SUBSCRIBE_ID, &[&self.down, &self.beacon]);
        stream.write_all(&self.out).await?;
        stream.flush().await?;
        self.out.clear();
        loop {
            match self.next_packet(stream).await? {
                Packet::SubAck(true) => return Ok(()),
                Packet::SubAck(false) => return Err(LinkError::SubscriptionRefused),
                // A retained beacon may overtake the SUBACK (section 3.8.4).
                early @ Packet::Publish { .. } => self.early.push(early),
                other => return Err(unexpected(&other)),
            }
        }
    }

    async fn next_packet(&mut self, stream: &mut Tls) -> Result<Packet, LinkError> {
        loop {
            if let Some(packet) = mqtt::take_packet(&mut self.received)? {
                return Ok(packet);
            }
            self.received.reserve(READ_BYTES);
            if stream.read_buf(&mut self.received).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// Ends well only when the fleet stops.
    async fn session(&mut self, mut stream: Tls) -> Result<(), LinkError> {
        let stop = self.shared.stop.clone();
        for packet in std::mem::take(&mut self.early) {
            self.hear(packet)?;
        }
        let mut ping_at_ms = self.shared.clock.now_ms() + PING_AFTER_MS;
        loop {
            let now_ms = self.shared.clock.now_ms();
            let wake_at_ms = self.advance(now_ms);
            if now_ms >= ping_at_ms {
                mqtt::put_pingreq(&mut self.out);
            }
            if !self.out.is_empty() {
                ping_at_ms = now_ms + PING_AFTER_MS;
                write(&mut stream, &mut self.out).await?;
            }
            self.received.reserve(READ_BYTES);
            let wake_at = self.shared.clock.instant(wake_at_ms.min(ping_at_ms));
            let event = tokio::select! {
                read = stream.read_buf(&mut self.received) => Event::Read(read),
                () = sleep_until(wake_at) => Event::Woken,
                changed = self.orders.changed() => if changed.is_ok() { Event::Woken } else { Event::Stop },
                () = stop.cancelled() => Event::Stop,
            };
            match event {
                Event::Woken => {}
                Event::Read(read) => {
                    if read? == 0 {
                        return Err(LinkError::Closed);
                    }
                    while let Some(packet) = mqtt::take_packet(&mut self.received)? {
                        self.hear(packet)?;
                    }
                }
                Event::Stop => {
                    mqtt::put_disconnect(&mut self.out);
                    write(&mut stream, &mut self.out).await?;
                    stream.shutdown().await?;
                    return Ok(());
                }
            }
        }
    }

    fn hear(&mut self, packet: Packet) -> Result<(), LinkError> {
        match packet {
            Packet::Publish {
                topic,
                acknowledge,
                payload,
            } => {
                if let Some(packet_id) = acknowledge {
                    mqtt::put_puback(&mut self.out, packet_id);
                }
                if topic == self.down.as_bytes() || topic == self.beacon.as_bytes() {
                    self.unit.hear(self.shared.clock.now_ms(), &payload);
                }
                Ok(())
            }
            Packet::PubAck(_) | Packet::PingResp => Ok(()),
            other @ (Packet::ConnAck(_) | Packet::SubAck(_)) => Err(unexpected(&other)),
        }
    }

    /// Lets the unit do what is due and puts its frames into `out`; when to come back.
    fn advance(&mut self, now_ms: i64) -> i64 {
        let orders = *self.orders.borrow_and_update();
        let stream = self.unit.stream();
        let (device, recorder) = (&self.device, &self.shared.recorder);
        let mut cut = |cut: Cut<'_>| {
            if let Some(recorder) = recorder {
                recorder(Posted {
                    device,
                    stream,
                    range: cut.range,
                    passages: cut.passages,
                });
            }
        };
        let mut wake_at_ms = self
            .unit
            .advance(now_ms, orders.offer, &mut self.publish, &mut cut);
        let closing = !orders.road_open && !self.closed;
        if closing {
            self.unit.close_road();
            wake_at_ms = self
                .unit
                .advance(now_ms, orders.offer, &mut self.publish, &mut cut);
        }
        for frame in self.publish.drain(..) {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            mqtt::put_publish(&mut self.out, &self.up, self.last_packet_id, &frame);
        }
        self.report();
        if closing {
            self.closed = true;
            self.shared
                .counters
                .closed_roads
                .fetch_add(1, Ordering::Release);
        }
        wake_at_ms
    }

    fn report(&mut self) {
        let counts = self.unit.counts();
        self.shared.counters.add_change(&self.reported, &counts);
        self.reported = counts;
        for ms in self.unit.take_receipt_times() {
            self.shared.counters.add_receipt_time(ms);
        }
    }

    /// Waits before the next attempt; vehicles go on passing.
    async fn stay_offline(&mut self, limit_ms: i64) {
        let stop = self.shared.stop.clone();
        let until_ms = self.shared.clock.now_ms() + self.unit.jitter_below(limit_ms);
        loop {
            let now_ms = self.shared.clock.now_ms();
            let wake_at_ms = self
                .advance(now_ms)
                .min(now_ms + OFFLINE_LOOK_MS)
                .min(until_ms);
            if now_ms >= until_ms {
                return;
            }
            tokio::select! {
                () = sleep_until(self.shared.clock.instant(wake_at_ms)) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

fn unexpected(packet: &Packet) -> LinkError {
    tracing::debug!(?packet, "packet that has no place here");
    LinkError::Closed
}

async fn write(stream: &mut Tls, out: &mut BytesMut) -> Result<(), LinkError> {
    let writing = async {
        stream.write_all(out).await?;
        stream.flush().await
    };
    timeout(WRITE_WITHIN, writing)
        .await
        .map_err(|_| LinkError::Silent)??;
    out.clear();
    Ok(())
}
