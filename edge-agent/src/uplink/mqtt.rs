//! The link to the broker: one MQTT connection, made, used and thrown away.
//!
//! rumqttc is treated as a leaky pipe: its acknowledgements free nothing, its sessions are clean,
//! its queue is small, and after any error the client is rebuilt. It sees a frame only while the
//! buffer has the passages in it.
//!
//! The event loop is polled by a task of its own, which shares its `select!` with the stop alone.
//! Between that task and the driver stand two bounded queues: requests (`REQUESTS_MAX`; full means
//! "no room", and the frame stays with the machine) and events (`EVENTS_MAX`; full holds the event
//! loop, and with it the connection's reading, back).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proto::frame::Down;
use proto::limits::FRAME_BYTES_MAX;
use proto::{DeviceId, Shard, topic};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use service::tasks::TaskSet;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::flight::MESSAGES_MAX;

/// Requests that may wait for the event loop. Full: the publish is refused and tried again after
/// the next acknowledgement.
const REQUESTS_MAX: usize = MESSAGES_MAX;

/// Events that may wait for the driver. Full: the event loop waits.
const EVENTS_MAX: usize = 64;

/// Unacknowledged publishes: all messages, and as much again for notes and heartbeats.
#[expect(clippy::cast_possible_truncation, reason = "a few dozen")]
const UNACKNOWLEDGED_MAX: u16 = 2 * MESSAGES_MAX as u16;

/// Room for the MQTT header and topic around a frame.
const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 1_024;

/// A link that carries nothing is tried this often, and found dead after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// For TCP, TLS and CONNECT together, and for each flush.
const CONNECTION_TIMEOUT_S: u64 = 30;

/// How long the broker may take to close after DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the link tells.
#[derive(Debug)]
pub enum LinkEvent {
    /// Connected and subscribed: what is published now can be answered.
    Subscribed,
    /// The oldest publish was acknowledged: it has crossed the link, and there is room again. It
    /// means nothing else. [`Link::acknowledged`] says how large it was.
    Acknowledged,
    /// A word of the centre, and the bytes of its frame.
    Down(Box<Down>, usize),
    /// A keep-alive was answered.
    KeptAlive,
    /// Something that claims to be one. Nothing was done about it.
    Unreadable(String),
    /// The end.
    Lost(String),
}

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Address {
    /// The broker's host, also the name in its certificate.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// The unit: client id and topics follow from it.
    pub device: DeviceId,
}

/// One connection. Dropping it ends it without a farewell.
#[derive(Debug)]
pub struct Link {
    client: AsyncClient,
    topic: String,
    events: mpsc::Receiver<LinkEvent>,
    /// Bytes of the publishes without an acknowledgement, oldest first: the broker acknowledges in
    /// order. As many as requests wait and publishes are unacknowledged.
    unacknowledged: VecDeque<usize>,
    farewell: CancellationToken,
    _end: DropGuard,
}

impl Link {
    /// Begins to connect; [`Link::next`] tells how that goes.
    pub fn connect(tasks: &TaskSet, address: &Address, tls: ClientConfig) -> Self {
        let tls = Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls)));
        Self::over(tasks, address, tls, CONNECTION_TIMEOUT_S)
    }

    fn over(
        tasks: &TaskSet,
        address: &Address,
        transport: Transport,
        connection_timeout_s: u64,
    ) -> Self {
        let device = &address.device;
        let (client, event_loop) = client_of(address, transport, connection_timeout_s);
        let (to_driver, events) = mpsc::channel(EVENTS_MAX);
        let (end, farewell) = (CancellationToken::new(), CancellationToken::new());
        let poller = Poller {
            client: client.clone(),
            filters: [topic::down(device), topic::beacon(Shard::of(device))],
            events: to_driver,
            end: end.clone(),
            farewell: farewell.clone(),
        };
        tasks.spawn("uplink-mqtt", poller.run(event_loop));
        let topic = topic::up(device);
        Self {
            client,
            topic,
            events,
            unacknowledged: VecDeque::new(),
            farewell,
            _end: end.drop_guard(),
        }
    }

    /// Hands a frame over; false when there is no room for it. Never waits.
    #[must_use]
    pub fn publish(&mut self, frame: Vec<u8>) -> bool {
        let bytes = frame.len();
        let handed = self
            .client
            .try_publish(&self.topic, QoS::AtLeastOnce, false, frame)
            .is_ok();
        if handed {
            self.unacknowledged.push_back(bytes);
        }
        handed
    }

    /// Takes note of [`LinkEvent::Acknowledged`]; the bytes of that frame.
    pub fn acknowledged(&mut self) -> usize {
        self.unacknowledged.pop_front().unwrap_or(0)
    }

    /// The next event; [`LinkEvent::Lost`] is the last. Cancel safe.
    pub async fn next(&mut self) -> LinkEvent {
        let ended = || LinkEvent::Lost("the connection's task has ended".to_owned());
        self.events.recv().await.unwrap_or_else(ended)
    }

    /// Says goodbye and waits, within a limit, until the broker has heard it.
    pub async fn close(self) {
        self.close_within(FAREWELL).await;
    }

    async fn close_within(mut self, patience: Duration) {
        self.farewell.cancel();
        let closed = async { while self.events.recv().await.is_some() {} };
        if tokio::time::timeout(patience, closed).await.is_err() {
            tracing::debug!("broker did not close after DISCONNECT");
        }
    }
}

fn client_of(
    address: &Address,
    transport: Transport,
    connection_timeout_s: u64,
) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(address.device.as_str(), &address.host, address.port);
    options
        .set_transport(transport)
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(UNACKNOWLEDGED_MAX)
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut event_loop) = AsyncClient::new(options, REQUESTS_MAX);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(connection_timeout_s);
    event_loop.set_network_options(network);
    (client, event_loop)
}

/// The task that polls the event loop.
struct Poller {
    client: AsyncClient,
    filters: [String; 2],
    events: mpsc::Sender<LinkEvent>,
    end: CancellationToken,
    farewell: CancellationToken,
}

impl Poller {
    async fn run(self, event_loop: EventLoop) {
        let end = self.end.clone();
        tokio::select! {
            () = end.cancelled() => {}
            () = self.poll(event_loop) => {}
        }
    }

    async fn poll(self, mut event_loop: EventLoop) {
        let farewell = self.farewell.clone();
        let polled = async {
            loop {
                let told = match event_loop.poll().await {
                    Ok(Event::Incoming(packet)) => self.incoming(packet),
                    Ok(Event::Outgoing(_)) => None,
                    Err(error) => Some(LinkEvent::Lost(explain(&error))),
                };
                let Some(told) = told else { continue };
                let last = matches!(told, LinkEvent::Lost(_));
                if self.events.send(told).await.is_err() || last {
                    return;
                }
            }
        };
        tokio::select! {
            () = polled => return,
            () = farewell.cancelled() => {}
        }
        if self.client.try_disconnect().is_ok() {
            // Nothing is read any more: what comes now comes again on the next connection.
            while event_loop.poll().await.is_ok() {}
        }
    }

    fn incoming(&self, packet: Packet) -> Option<LinkEvent> {
        match packet {
            Packet::ConnAck(_) => {
                // A receipt that is lost comes again; acknowledging it would be a message more.
                let filters = self.filters.iter().map(|filter| SubscribeFilter {
                    path: filter.clone(),
                    qos: QoS::AtMostOnce,
                });
                let refused = self.client.try_subscribe_many(filters).err()?;
                Some(LinkEvent::Lost(format!("cannot subscribe: {refused}")))
            }
            Packet::SubAck(granted) => {
                let refused = granted.return_codes.contains(&SubscribeReasonCode::Failure);
                Some(if refused {
                    let [down, beacon] = &self.filters;
                    LinkEvent::Lost(format!("broker refused to subscribe {down} or {beacon}"))
                } else {
                    LinkEvent::Subscribed
                })
            }
            Packet::PubAck(_) => Some(LinkEvent::Acknowledged),
            Packet::PingResp => Some(LinkEvent::KeptAlive),
            Packet::Publish(publish) => Some(match Down::decode(&publish.payload) {
                Ok(down) => LinkEvent::Down(Box::new(down), publish.payload.len()),
                Err(error) => LinkEvent::Unreadable(format!("{}: {error}", publish.topic)),
            }),
            _ => None,
        }
    }
}

/// The error with its causes; rumqttc's own texts often name only the layer.
fn explain(error: &ConnectionError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
