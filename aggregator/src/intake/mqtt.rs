//! The connection to the broker: up frames in, receipts, refusals and beacons out.
//!
//! A leaky pipe, and treated as one: everything in it can be lost and is sent again. Client and event
//! loop are built anew after any error. Connected only while a shard is owned: the client id is the
//! certificate's name, and a standby with the same certificate would throw the owner out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    #[error("mqtt.address {0:?} is not host:port")]
    Address(String),
}

/// Where receipts and refusals leave.
#[derive(Debug, Clone)]
pub struct Downlink {
    link: watch::Receiver<Link>,
    metrics: Metrics,
}

impl Downlink {
    /// Over the connection whose state `link` shows.
    #[must_use]
    pub const fn new(link: watch::Receiver<Link>, metrics: Metrics) -> Self {
        Self { link, metrics }
    }

    /// Hands a message for a device to the broker's client, QoS 0. Without a connection, or without
    /// room, it is dropped and counted: the unit sends again and is answered again.
    pub fn send(&self, device: &DeviceId, message: &Down) {
        let link = self.link.borrow();
        let sent = match &*link {
            Link::Down => false,
            Link::Connected(client) | Link::Subscribed(client) => client
                .try_publish(down(device), QoS::AtMostOnce, false, message.encode())
                .is_ok(),
        };
        if !sent {
            self.metrics.downlink_dropped.inc();
        }
    }
}

/// The task that owns the event loop.
pub struct Receiver {
    /// The broker.
    pub settings: MqttConfig,
    /// Bounds what is on the way.
    pub door: Door,
    /// To the threads that decode.
    pub frames: flume::Sender<Frame>,
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// Whether frames are taken.
    pub gate: watch::Receiver<Gate>,
    /// Where the state of the connection is published.
    pub link: watch::Sender<Link>,
    /// Counts.
    pub metrics: Metrics,
}

impl Receiver {
    /// Receives until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let owned = async {
                // An ended lease keeper means that the program stops.
                self.holdings
                    .wait_for(|holdings| !holdings.tokens.is_empty())
                    .await
                    .is_ok()
            };
            tokio::select! {
                () = stop.cancelled() => return,
                owned = owned => if !owned { return },
            }
            let ended = match build(&self.settings) {
                Ok((client, events)) => self.receive(client, events, &mut backoff, &stop).await,
                Err(error) => Err(error.to_string()),
            };
            self.link.send_replace(Link::Down);
            self.metrics.broker_connected.set(0);
            if let Err(problem) = ended {
                tracing::warn!(problem, "no connection to the broker; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.delay()) => {}
                }
            }
        }
    }

    /// Receives over one connection until it fails, nothing is owned any more, or `stop`.
    async fn receive(
        &mut self,
        client: AsyncClient,
        mut events: EventLoop,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let mut holdings = self.holdings.clone();
        loop {
            let dispossessed = async {
                // Whether the value or its end was seen: either way nothing is owned.
                holdings
                    .wait_for(|holdings| holdings.tokens.is_empty())
                    .await
                    .is_ok()
            };
            // Both other arms end the connection, so a poll that is dropped half-way does no harm.
            let event = tokio::select! {
                event = events.poll() => Some(event),
                () = stop.cancelled() => None,
                _ = dispossessed => None,
            };
            let Some(event) = event else {
                say_goodbye(&client, &mut events).await;
                return Ok(());
            };
            match event.map_err(|error| problem(&error))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    self.link.send_replace(Link::Connected(client.clone()));
                }
                Event::Incoming(Packet::SubAck(_)) => {
                    backoff.reset();
                    self.metrics.broker_connected.set(1);
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

    fn take(&mut self, topic: &str, payload: bytes::Bytes) -> Result<(), Dropped> {
        if *self.gate.borrow() != Gate::Open {
            return Err(Dropped::Closed);
        }
        let frame = self.door.admit(topic, payload)?;
        self.frames.try_send(frame).map_err(|error| match error {
            TrySendError::Full(_) => Dropped::Queue,
            TrySendError::Disconnected(_) => Dropped::Closed,
        })
    }
}

/// Lets receipts that are on their way leave, then disconnects.
async fn say_goodbye(client: &AsyncClient, events: &mut EventLoop) {
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
    if tokio::time::timeout(GOODBYE_TIMEOUT, gone).await.is_err() {
        tracing::info!("the broker does not take the last receipts; they heal by the next resend");
    }
}

fn build(settings: &MqttConfig) -> Result<(AsyncClient, EventLoop), MqttError> {
    let identity = load_identity(&settings.certificate, &settings.key)?;
    if identity.role != service::tls::Role::Centre {
        let path = settings.certificate.clone();
        return Err(MqttError::Role {
            path,
            role: identity.role,
        });
    }
    let address = &settings.address;
    let (host, port) = split_address(address).ok_or_else(|| MqttError::Address(address.clone()))?;
    let tls = client_config(&identity, &settings.ca, &TimeFloor::new())?;
    let mut options = MqttOptions::new(identity.name.as_str(), host, port);
    options
        .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))))
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(IN_FLIGHT_MAX)
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    let mut network = events.network_options();
    network
        .set_connection_timeout(CONNECTION_TIMEOUT_S)
        .set_tcp_nodelay(true);
    events.set_network_options(network);
    Ok((client, events))
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
