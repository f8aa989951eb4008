//! The connection to the broker: up frames in, receipts, refusals and beacons out.
//!
//! A leaky pipe, and treated as one: everything in it can be lost and is sent again. Client and event
//! loop are built anew after any error. One task for each broker at which units may be; receipts and
//! refusals leave over all of them, since only one of the brokers knows the unit. Connected only while
//! this aggregator takes part: the client id is the certificate's name, and a standby with the same
//! certificate would throw the owner out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flume::TrySendError;
use proto::device::DeviceId;
use proto::frame::Down;
use proto::limits::FRAME_BYTES_MAX;
use proto::receipt::Intake;
use proto::topic::down;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS, TlsConfiguration, Transport,
};
use service::tls::{TimeFloor, TlsError, client_config, load_identity};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admit::{Door, Dropped, Frame};
use super::lane::Lanes;
use crate::backoff::Backoff;
use crate::commit::lease::Holdings;
use crate::config::{MqttConfig, split_address};
use crate::metrics::Metrics;

/// Publishes of the broker that may be unacknowledged.
const IN_FLIGHT_MAX: u16 = 100;
/// The MQTT header and topic around a frame.
const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 1_024;
/// Receipts, refusals and beacons on their way out. Beyond, receipts are dropped; they heal.
const REQUESTS_MAX: usize = 16_384;
/// The longest pause between two attempts to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Until the last receipts have left.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// Until a connection or a flush of it counts as failed.
const CONNECTION_TIMEOUT_S: u64 = 30;

/// Whether frames are taken, and why not. The reason is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Send.
    Open,
    /// Keep.
    Closed(String),
}

impl Gate {
    /// The same as a beacon says it.
    #[must_use]
    pub const fn intake(&self) -> Intake {
        match self {
            Self::Open => Intake::Open,
            Self::Closed(_) => Intake::Closed,
        }
    }
}

/// How far the connection has come.
#[derive(Debug, Clone, Default)]
pub enum Link {
    /// Not connected.
    #[default]
    Down,
    /// Connected, not yet subscribed.
    Connected(AsyncClient),
    /// Subscribed to all that is owned.
    Subscribed(AsyncClient),
}

/// Settings by which no broker can be reached.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// Certificates or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is not a centre's.
    #[error("certificate {} has the role {role}, the aggregator's must be \"centre\"", path.display())]
    Role {
        /// Which file.
        path: PathBuf,
        /// Its role.
        role: service::tls::Role,
    },
    /// The address.
    #[error("broker {0:?} is not host:port")]
    Address(String),
}

/// Where receipts and refusals leave.
#[derive(Debug, Clone)]
pub struct Downlink {
    links: Vec<watch::Receiver<Link>>,
    metrics: Metrics,
}

impl Downlink {
    /// Over the connections whose states `links` show.
    #[must_use]
    pub const fn new(links: Vec<watch::Receiver<Link>>, metrics: Metrics) -> Self {
        Self { links, metrics }
    }

    /// Hands a message for a device to the clients of all brokers, QoS 0. Without a connection, or
    /// without room, it is dropped and counted: the unit sends again and is answered again.
    pub fn send(&self, device: &DeviceId, message: &Down) {
        let (topic, frame) = (down(device), Bytes::from(message.encode()));
        let mut sent = false;
        for link in &self.links {
            sent |= match &*link.borrow() {
                Link::Down => false,
                Link::Connected(client) | Link::Subscribed(client) => client
                    .try_publish(&topic, QoS::AtMostOnce, false, frame.clone())
                    .is_ok(),
            };
        }
        if !sent {
            self.metrics.downlink_dropped.inc();
        }
    }
}

/// The task that owns the event loop.
pub struct Receiver {
    /// Which broker: `host:port`.
    pub address: String,
    /// How to connect.
    pub settings: MqttConfig,
    /// Bounds what is on the way.
    pub door: Door,
    /// To the threads that decode.
    pub frames: Lanes<flume::Sender<Frame>>,
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// Whether frames are taken.
    pub gate: watch::Receiver<Gate>,
    /// Where the state of the connection is published.
    pub link: watch::Sender<Link>,
    /// Counted up when a connection stands that is not the first: what the one before still had to
    /// bring is lost.
    pub relinks: watch::Sender<u64>,
    /// Counts.
    pub metrics: Metrics,
}

impl Receiver {
    /// Receives until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), RECONNECT_MAX);
        let mut had_one = false;
        loop {
            let takes_part = async {
                // An ended lease keeper means that the program stops.
                self.holdings
                    .wait_for(|holdings| holdings.takes_part)
                    .await
                    .is_ok()
            };
            tokio::select! {
                () = stop.cancelled() => return,
                takes_part = takes_part => if !takes_part { return },
            }
            let ended = match build(&self.settings, &self.address) {
                Ok((client, events)) => {
                    let connection = (client, events, &mut had_one);
                    self.receive(connection, &mut backoff, &stop).await
                }
                Err(error) => Err(error.to_string()),
            };
            if !matches!(*self.link.borrow(), Link::Down) {
                self.metrics.brokers_connected.dec();
            }
            self.link.send_replace(Link::Down);
            if let Err(problem) = ended {
                let broker = &self.address;
                tracing::warn!(problem, broker, "no connection to the broker; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.delay()) => {}
                }
            }
        }
    }

    /// Receives over one connection until it fails, this aggregator takes no part any more, or `stop`.
    async fn receive(
        &mut self,
        (client, mut events, had_one): (AsyncClient, EventLoop, &mut bool),
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let mut holdings = self.holdings.clone();
        loop {
            let dismissed = async {
                // Whether the value or its end was seen: either way it takes no part.
                holdings
                    .wait_for(|holdings| !holdings.takes_part)
                    .await
                    .is_ok()
            };
            // Both other arms end the connection, so a poll that is dropped half-way does no harm.
            let event = tokio::select! {
                event = events.poll() => Some(event),
                () = stop.cancelled() => None,
                _ = dismissed => None,
            };
            let Some(event) = event else {
                say_goodbye(&client, &mut events, GOODBYE_TIMEOUT).await;
                return Ok(());
            };
            match event.map_err(|error| problem(&error))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    backoff.reset();
                    self.metrics.brokers_connected.inc();
                    self.link.send_replace(Link::Connected(client.clone()));
                    if std::mem::replace(had_one, true) {
                        self.relinks.send_modify(|relinks| *relinks += 1);
                    }
                }
                Event::Incoming(Packet::SubAck(_)) => {
                    self.link.send_replace(Link::Subscribed(client.clone()));
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    self.metrics.frames_received.inc();
                    if let Err(dropped) = self.take(&publish.topic, publish.payload) {
                        self.metrics.dropped(dropped);
                    }
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, topic: &str, payload: Bytes) -> Result<(), Dropped> {
        if *self.gate.borrow() != Gate::Open {
            return Err(Dropped::Closed);
        }
        let frame = self.door.admit(topic, payload)?;
        let frames = self.frames.of(frame.place.lane());
        frames.try_send(frame).map_err(|error| match error {
            TrySendError::Full(_) => Dropped::Queue,
            TrySendError::Disconnected(_) => Dropped::Closed,
        })
    }
}

/// Lets receipts that are on their way leave, then disconnects.
async fn say_goodbye(client: &AsyncClient, events: &mut EventLoop, patience: Duration) {
    if client.try_disconnect().is_err() {
        return;
    }
    let gone = async {
        loop {
            match events.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    if tokio::time::timeout(patience, gone).await.is_err() {
        tracing::info!("the broker does not take the last receipts; they heal by the next resend");
    }
}

fn build(settings: &MqttConfig, address: &str) -> Result<(AsyncClient, EventLoop), MqttError> {
    let identity = load_identity(&settings.certificate, &settings.key)?;
    if identity.role != service::tls::Role::Centre {
        let path = settings.certificate.clone();
        return Err(MqttError::Role {
            path,
            role: identity.role,
        });
    }
    let (host, port) =
        split_address(address).ok_or_else(|| MqttError::Address(address.to_owned()))?;
    let tls = client_config(&identity, &settings.ca, &TimeFloor::new())?;
    let mut options = MqttOptions::new(identity.name.as_str(), host, port);
    options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
    Ok(client_of(options, CONNECTION_TIMEOUT_S))
}

fn client_of(mut options: MqttOptions, connection_timeout_s: u64) -> (AsyncClient, EventLoop) {
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(IN_FLIGHT_MAX)
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    // Not without delay: a flush sends a receipt to each of its units, and each would be a segment.
    let mut network = events.network_options();
    network.set_connection_timeout(connection_timeout_s);
    events.set_network_options(network);
    (client, events)
}

/// The certificate's name, for people and for the lease.
///
/// # Errors
/// When certificate and key cannot be used, or are not a centre's.
pub fn own_name(settings: &MqttConfig) -> Result<DeviceId, MqttError> {
    let identity = load_identity(&settings.certificate, &settings.key)?;
    if identity.role == service::tls::Role::Centre {
        Ok(identity.name)
    } else {
        let path = settings.certificate.clone();
        Err(MqttError::Role {
            path,
            role: identity.role,
        })
    }
}

fn problem(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => {
            "the broker refuses this certificate: its role must be centre".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proto::receipt::Receipt;
    use proto::topic::Shard;
    use tokio::net::TcpListener;

    use super::super::admit::{DoorLimits, QUEUE_FRAMES_MAX};
    use super::super::lane;
    use super::*;
    use crate::testing::CENTRE;

    fn metrics() -> Metrics {
        Metrics::register(&mut prometheus_client::registry::Registry::default())
    }

    /// How long anything may take before a test gives up.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A broker that takes the connection and says nothing.
    async fn silent(connection_timeout_s: u64) -> (TcpListener, AsyncClient, EventLoop) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = MqttOptions::new("centre", "127.0.0.1", port);
        let (client, events) = client_of(options, connection_timeout_s);
        (listener, client, events)
    }

    #[tokio::test]
    async fn a_broker_that_does_not_take_the_last_receipts_is_not_waited_for() {
        let (_silent, client, mut events) = silent(3_600).await;
        let goodbye = say_goodbye(&client, &mut events, Duration::ZERO);
        tokio::time::timeout(PATIENCE, goodbye)
            .await
            .expect("given up");
    }

    #[tokio::test]
    async fn a_broker_that_does_not_answer_a_connect_is_given_up() {
        let (_silent, _client, mut events) = silent(0).await;
        let polled = tokio::time::timeout(PATIENCE, events.poll()).await;
        polled.expect("given up").unwrap_err();
    }

    #[test]
    fn the_client_of_a_broker_is_given_the_limits_that_it_keeps() {
        let (_client, events) = client_of(MqttOptions::new("centre", "b", 1), 7);
        assert_eq!(events.mqtt_options.keep_alive(), KEEP_ALIVE);
        assert_eq!(events.mqtt_options.inflight(), IN_FLIGHT_MAX);
        assert_eq!(events.mqtt_options.max_packet_size(), PACKET_BYTES_MAX);
        assert_eq!(events.network_options().connection_timeout(), 7);
    }

    /// Beacons are all that is published at QoS 1, one for each shard.
    #[test]
    fn every_beacon_finds_room_among_the_publishes_without_an_acknowledgement() {
        assert!(usize::from(IN_FLIGHT_MAX) >= Shard::all().count());
    }

    /// A client that nobody moves, with room for so many.
    #[test]
    fn receipts_beyond_the_room_of_the_client_are_dropped_and_counted() {
        let options = MqttOptions::new("centre", "localhost", 1);
        let (client, _events) = AsyncClient::new(options, REQUESTS_MAX);
        let (_connected, link) = watch::channel(Link::Subscribed(client));
        let metrics = metrics();
        let downlink = Downlink::new(vec![link], metrics.clone());
        let receipt = Down::Receipt(Receipt {
            centre: CENTRE,
            streams: Vec::new(),
            correction: None,
        });
        let device = DeviceId::new("KV1").unwrap();
        (0..REQUESTS_MAX).for_each(|_| downlink.send(&device, &receipt));
        assert_eq!(metrics.downlink_dropped.get(), 0);
        (0..3).for_each(|_| downlink.send(&device, &receipt));
        assert_eq!(metrics.downlink_dropped.get(), 3);
    }

    #[test]
    fn frames_beyond_the_queue_to_the_decoders_are_dropped_and_give_their_place_back() {
        let limits = DoorLimits {
            bytes_max: usize::MAX,
            device_frames_max: u32::MAX,
            devices_max: 1,
        };
        let (frames, queue) = lane::channels(QUEUE_FRAMES_MAX);
        let nowhere = PathBuf::new;
        let mut receiver = Receiver {
            address: String::new(),
            settings: MqttConfig {
                address: String::new(),
                further_addresses: Vec::new(),
                ca: nowhere(),
                certificate: nowhere(),
                key: nowhere(),
            },
            door: Door::new(limits),
            frames,
            holdings: watch::channel(Holdings::default()).1,
            gate: watch::channel(Gate::Open).1,
            link: watch::channel(Link::Down).0,
            relinks: watch::channel(0).0,
            metrics: metrics(),
        };
        let topic = proto::topic::up(&DeviceId::new("KV1").unwrap());
        for _ in 0..QUEUE_FRAMES_MAX {
            assert_eq!(receiver.take(&topic, Bytes::new()), Ok(()));
        }
        for _ in 0..2 {
            let refused = receiver.take(&topic, Bytes::new());
            assert_eq!(refused, Err(Dropped::Queue));
        }
        drop(queue.live.recv().unwrap());
        assert_eq!(receiver.take(&topic, Bytes::new()), Ok(()));
    }
}
