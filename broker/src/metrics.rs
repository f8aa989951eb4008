//! Every metric of the broker, by name, in one place.
//!
//! Counters stand at each boundary, so that they balance: accepted = failed handshakes + refused +
//! opened; opened = closed + open. What a ring dropped before a subscriber read it is not among
//! them, because the router does not say.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Why a connection ended after its CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The client said DISCONNECT.
    Client,
    /// The client's side of the socket ended without a word, or broke.
    Lost,
    /// A packet that the client must not send.
    Violation,
    /// Another connection of the same name.
    TakenOver,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate ended.
    Expired,
    /// Nothing heard for one and a half keep-alives.
    Idle,
    /// Does not read what it is sent.
    Stuck,
    /// The broker stops.
    Stop,
    /// The router has dropped the link.
    Router,
}

impl Closed {
    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Lost => "lost",
            Self::Violation => "violation",
            Self::TakenOver => "taken_over",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Stuck => "stuck",
            Self::Stop => "stop",
            Self::Router => "router",
        }
    }
}

/// Why a connection never came to its CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// TLS failed: no certificate, a wrong or revoked one, or no TLS at all.
    Tls,
    /// The certificate names no owner.
    Identity,
    /// The client left.
    Lost,
    /// Not done in time.
    Timeout,
    /// Gave way to others that waited.
    Crowded,
    /// The first packet was no CONNECT of MQTT 3.1.1.
    Packet,
    /// The broker stops.
    Stop,
}

impl HandshakeFailure {
    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::Packet => "packet",
            Self::Stop => "stop",
        }
    }
}

/// A kind of packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// CONNECT, or CONNACK.
    Connect,
    /// PUBLISH.
    Publish,
    /// PUBACK.
    PubAck,
    /// SUBSCRIBE, or SUBACK.
    Subscribe,
    /// UNSUBSCRIBE, or UNSUBACK.
    Unsubscribe,
    /// PINGREQ, or PINGRESP.
    Ping,
    /// DISCONNECT.
    Disconnect,
}

impl Kind {
    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::PubAck => "puback",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Ping => "ping",
            Self::Disconnect => "disconnect",
        }
    }
}

const KINDS: [Kind; 7] = [
    Kind::Connect,
    Kind::Publish,
    Kind::PubAck,
    Kind::Subscribe,
    Kind::Unsubscribe,
    Kind::Ping,
    Kind::Disconnect,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

/// Counters of one direction, found once so that a packet costs one addition.
#[derive(Debug, Clone)]
pub struct Traffic {
    packets: [Counter; KINDS.len()],
    /// Bytes of MQTT, without TLS.
    pub bytes: Counter,
}

impl Traffic {
    fn register(registry: &mut Registry, way: &str, words: &str) -> Self {
        let family = Family::<ByKind, Counter>::default();
        let bytes = Counter::default();
        let help = format!("MQTT packets {words}, by kind (answers under the kind they answer)");
        registry.register(format!("verst_broker_packets_{way}"), help, family.clone());
        let help = format!("Bytes of MQTT {words}");
        registry.register(format!("verst_broker_bytes_{way}"), help, bytes.clone());
        let packets = KINDS.map(|kind| family.get_or_create_owned(&ByKind { kind: kind.label() }));
        Self { packets, bytes }
    }

    /// Counts a packet.
    pub fn packet(&self, kind: Kind) {
        if let Some(counter) = self.packets.get(kind as usize) {
            counter.inc();
        }
    }
}

/// The broker's counters and gauges. Clones count into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// TCP connections accepted.
    pub accepted: Counter,
    /// Connections that came to CONNACK 0.
    pub opened: Counter,
    /// Connections that are open.
    pub open: Gauge,
    /// Connections that displaced another of their name.
    pub takeovers: Counter,
    /// Pauses in reading because of a rate.
    pub throttled: Counter,
    /// Beacons of former owners, which were not kept.
    pub beacons_outdated: Counter,
    /// Messages of the router that came after the client had unsubscribed.
    pub unwanted: Counter,
    /// Waits because the router lagged.
    pub router_waits: Counter,
    /// Reloads of certificates that succeeded.
    pub reloads: Counter,
    /// Reloads that failed; the old certificates stay in force.
    pub reload_failures: Counter,
    /// Seconds since 1970 at which the broker's own certificate ends.
    pub certificate_end_s: Gauge,
    /// From clients.
    pub received: Traffic,
    /// To clients.
    pub sent: Traffic,
    failures: Family<ByReason, Counter>,
    refused: Family<ByReason, Counter>,
    violations: Family<ByReason, Counter>,
    closed: Family<ByReason, Counter>,
    canary: Histogram,
    canary_latest_s: Gauge<f64, AtomicU64>,
    handshakes_open: Gauge,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    #[expect(
        clippy::too_many_lines,
        reason = "one line for each metric, in one place"
    )]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            accepted: Counter::default(),
            opened: Counter::default(),
            open: Gauge::default(),
            takeovers: Counter::default(),
            throttled: Counter::default(),
            beacons_outdated: Counter::default(),
            unwanted: Counter::default(),
            router_waits: Counter::default(),
            reloads: Counter::default(),
            reload_failures: Counter::default(),
            certificate_end_s: Gauge::default(),
            received: Traffic::register(registry, "received", "received from clients"),
            sent: Traffic::register(registry, "sent", "sent to clients"),
            failures: Family::default(),
            refused: Family::default(),
            violations: Family::default(),
            closed: Family::default(),
            canary: Histogram::new([0.0001, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
            canary_latest_s: Gauge::default(),
            handshakes_open: Gauge::default(),
        };
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(format!("verst_broker_{name}"), help, counter.clone());
        };
        counter(
            "connections_accepted",
            "TCP connections accepted",
            &metrics.accepted,
        );
        counter(
            "connections_opened",
            "Connections accepted with CONNACK 0",
            &metrics.opened,
        );
        counter(
            "takeovers",
            "Connections that displaced another of their name",
            &metrics.takeovers,
        );
        counter(
            "throttled",
            "Pauses in reading from a client because of its rate",
            &metrics.throttled,
        );
        counter(
            "beacons_outdated",
            "Beacons of aggregators that own the shard no longer, dropped",
            &metrics.beacons_outdated,
        );
        counter(
            "messages_unwanted",
            "Messages dropped after an UNSUBSCRIBE",
            &metrics.unwanted,
        );
        counter(
            "router_waits",
            "Waits because the router lagged",
            &metrics.router_waits,
        );
        counter(
            "reloads",
            "Reloads of certificates and revocation lists",
            &metrics.reloads,
        );
        counter(
            "reload_failures",
            "Reloads that failed; the old files stay in force",
            &metrics.reload_failures,
        );
        let mut family = |name: &str, help: &str, family: Family<ByReason, Counter>| {
            registry.register(format!("verst_broker_{name}"), help, family);
        };
        family(
            "connects_refused",
            "CONNECTs refused, by reason",
            metrics.refused.clone(),
        );
        family(
            "violations",
            "Packets that ended their connection, by reason",
            metrics.violations.clone(),
        );
        registry.register(
            "verst_broker_handshake_failures",
            "Connections that ended before CONNACK, by reason",
            metrics.failures.clone(),
        );
        registry.register(
            "verst_broker_connections_closed",
            "Connections that ended after CONNACK 0, by reason",
            metrics.closed.clone(),
        );
        registry.register(
            "verst_broker_connections_open",
            "Connections that are open",
            metrics.open.clone(),
        );
        registry.register(
            "verst_broker_handshakes_open",
            "Connections on their way to CONNACK",
            metrics.handshakes_open.clone(),
        );
        registry.register(
            "verst_broker_certificate_end_seconds",
            "When the broker's own certificate ends, in seconds since 1970",
            metrics.certificate_end_s.clone(),
        );
        registry.register(
            "verst_broker_canary_seconds",
            "Way of the canary through the router and back",
            metrics.canary.clone(),
        );
        registry.register(
            "verst_broker_canary_latest_seconds",
            "Latest way of the canary through the router and back",
            metrics.canary_latest_s.clone(),
        );
        metrics
    }

    /// A connection ended before its CONNACK.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.failures
            .get_or_create(&ByReason {
                reason: reason.label(),
            })
            .inc();
    }

    /// A CONNECT was refused.
    pub fn connect_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A packet ended its connection.
    pub fn violation(&self, reason: &'static str) {
        self.violations.get_or_create(&ByReason { reason }).inc();
    }

    /// A connection ended after its CONNACK.
    pub fn closed(&self, reason: Closed) {
        self.closed
            .get_or_create(&ByReason {
                reason: reason.label(),
            })
            .inc();
    }

    /// The canary came back.
    pub fn canary_heard(&self, after: Duration) {
        self.canary.observe(after.as_secs_f64());
        self.canary_latest_s.set(after.as_secs_f64());
    }

    /// Counts a handshake as open until the guard is dropped.
    #[must_use]
    pub fn handshake(&self) -> OpenHandshake {
        self.handshakes_open.inc();
        OpenHandshake(self.clone())
    }
}

/// See [`Metrics::handshake`].
#[derive(Debug)]
pub struct OpenHandshake(Metrics);

impl Drop for OpenHandshake {
    fn drop(&mut self) {
        self.0.handshakes_open.dec();
    }
}
