//! ● The broker: the real gate's verdicts before a router that forgets, drops, delays, reorders and
//! duplicates.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broker::acl::filter_of;
use broker::identity::{CertificateId, Identity, Role};
use broker::packet::{Connect, Packet, Publish, Qos, frame};
use broker::session::{Session, SessionLimits, Step, admit};
use bytes::{Bytes, BytesMut};
use proto::DeviceId;

use super::net::{Client, ConnectionId, ToBroker, ToClient};
use super::stage::{Event, Stage};

/// The broker's defaults, but for a window that is easily full.
const LIMITS: SessionLimits = SessionLimits {
    subscriptions_max: 128,
    topics_max: 50_000,
    window: 8,
};

/// Messages that wait for a subscriber; beyond, the oldest is dropped, as in a ring.
const RING_MESSAGES_MAX: usize = 64;

/// Longer than any packet here.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// What the broker forgets when it dies.
#[derive(Debug, Default)]
pub(super) struct Broker {
    sessions: BTreeMap<ConnectionId, Connection>,
    subscriptions: BTreeMap<String, BTreeSet<ConnectionId>>,
    retained: BTreeMap<String, Bytes>,
}

#[derive(Debug)]
struct Connection {
    identity: Identity,
    session: Session,
    /// What the window of unacknowledged messages has no room for.
    waiting: VecDeque<(String, Bytes, bool)>,
}

/// What a verified certificate says.
pub(super) fn identity(name: &DeviceId, role: Role) -> Identity {
    Identity {
        name: name.clone(),
        role,
        certificate: CertificateId {
            issuer: Vec::new(),
            serial: name.as_str().as_bytes().to_vec(),
        },
        not_after_s: i64::MAX,
    }
}

impl Broker {
    /// Takes a packet of a client that `identity` certifies.
    pub(super) fn hear(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        identity: Identity,
        packet: ToBroker,
    ) {
        if let ToBroker::Connect { client_id } = &packet {
            return self.admit(stage, id, identity, client_id);
        }
        let Some(connection) = self.sessions.get_mut(&id) else {
            return;
        };
        let filters: Vec<(&str, Qos)>;
        let packet = match &packet {
            ToBroker::Connect { .. } => return,
            ToBroker::Subscribe(wanted) => {
                let wanted = wanted.iter().map(String::as_str);
                filters = wanted.map(|filter| (filter, Qos::AtMostOnce)).collect();
                Packet::Subscribe { pkid: 1, filters }
            }
            ToBroker::Unsubscribe(left) => Packet::Unsubscribe {
                pkid: 1,
                filters: left.iter().map(String::as_str).collect(),
            },
            ToBroker::Publish {
                topic,
                payload,
                retain,
                pkid,
            } => Packet::Publish(Publish {
                topic,
                payload,
                retain: *retain,
                pkid: *pkid,
            }),
            ToBroker::PubAck(pkid) => Packet::PubAck(*pkid),
        };
        match connection.session.judge(packet) {
            Ok(Step::Publish {
                topic,
                payload,
                retain,
                pkid,
            }) => {
                let (topic, payload) = (
                    String::from_utf8_lossy(&topic).into_owned(),
                    Bytes::copy_from_slice(payload),
                );
                stage.oracle.published(&connection.identity, &topic, retain);
                if let Some(pkid) = pkid {
                    stage.send_down(id, ToClient::PubAck(pkid));
                }
                self.route(stage, &topic, &payload);
                if retain {
                    self.retained.insert(topic, payload);
                }
            }
            Ok(Step::Subscribe(filters)) => {
                let filters: Vec<String> = filters.into_iter().map(str::to_owned).collect();
                let mut answer = BytesMut::new();
                connection.session.subscribed(&mut answer);
                stage.send_down(id, ToClient::Subscribed);
                for filter in filters {
                    if let Some(payload) = self.retained.get(&filter).cloned() {
                        let kept = Event::Routed(id, filter.clone(), payload, true);
                        stage.queue.after(0, kept);
                    }
                    self.subscriptions.entry(filter).or_default().insert(id);
                }
            }
            Ok(Step::Unsubscribe(filters)) => {
                let mut answer = BytesMut::new();
                for filter in filters {
                    connection.session.unsubscribed(&mut answer);
                    if let Some(subscribers) = self.subscriptions.get_mut(&filter) {
                        subscribers.remove(&id);
                    }
                }
            }
            Ok(Step::NotSubscribed(_)) => {}
            Ok(Step::Taken) => self.drain(stage, id),
            Ok(other) => unreachable!("no client here asks for {other:?}"),
            Err(violation) => {
                let name = connection.identity.name.clone();
                stage.say(format_args!("broker: {name} is thrown out: {violation}"));
                if stage.net.client(id) != Some(Client::Intruder) {
                    stage
                        .oracle
                        .fail(format!("the gate threw {name} out: {violation}"));
                }
                self.close(stage, id);
            }
        }
    }

    fn admit(&mut self, stage: &mut Stage, id: ConnectionId, identity: Identity, client_id: &str) {
        let connect = Connect {
            client_id,
            clean_session: true,
            keep_alive_s: 30,
            has_will: false,
            has_login: false,
        };
        if let Err(refusal) = admit(&connect, &identity) {
            stage.say(format_args!(
                "broker: {} is refused: {refusal}",
                identity.name
            ));
            return self.close(stage, id);
        }
        let same = |other: &Connection| other.identity.name == identity.name;
        let before = self.sessions.iter().find(|(_, other)| same(other));
        if let Some((before, _)) = before.map(|(id, other)| (*id, other)) {
            self.close(stage, before);
        }
        let connection = Connection {
            session: Session::new(&identity, LIMITS),
            identity,
            waiting: VecDeque::new(),
        };
        self.sessions.insert(id, connection);
        stage.send_down(id, ToClient::Connected);
    }

    /// Ends a connection from this side.
    fn close(&mut self, stage: &mut Stage, id: ConnectionId) {
        self.forget(id);
        stage.cut(id, 1);
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.sessions.remove(&id);
        for subscribers in self.subscriptions.values_mut() {
            subscribers.remove(&id);
        }
    }

    /// Dies and comes back: nothing is kept.
    pub(super) fn restart(&mut self, stage: &mut Stage) {
        *self = Self::default();
        for id in stage.net.of(|_| true) {
            let unnoticed = stage.dice.pick(&[1, 1, 50, 20_000]);
            stage.cut(id, unnoticed);
        }
    }

    fn route(&mut self, stage: &mut Stage, topic: &str, payload: &Bytes) {
        let filter = filter_of(topic);
        let subscribers = filter.and_then(|filter| self.subscriptions.get(&filter));
        for id in subscribers.into_iter().flatten() {
            let mut copies = 1;
            if stage.dice.percent(stage.weather.duplicates) {
                copies = 2;
            }
            for _ in 0..copies {
                if stage.dice.percent(stage.weather.drops) {
                    stage.say(format_args!("broker: drops a message on {topic}"));
                    continue;
                }
                let delay = stage.dice.between(0, stage.weather.router_delay_ms_max);
                let routed = Event::Routed(*id, topic.to_owned(), payload.clone(), false);
                stage.queue.after(delay, routed);
            }
        }
    }

    /// A message has come through the router.
    pub(super) fn routed(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        topic: String,
        payload: Bytes,
        retain: bool,
    ) {
        if let Some(connection) = self.sessions.get_mut(&id) {
            connection.waiting.push_back((topic, payload, retain));
            if connection.waiting.len() > RING_MESSAGES_MAX {
                connection.waiting.pop_front();
            }
            self.drain(stage, id);
        }
    }

    /// Delivers what the subscriber's window has room for.
    fn drain(&mut self, stage: &mut Stage, id: ConnectionId) {
        let Some(connection) = self.sessions.get_mut(&id) else {
            return;
        };
        while connection.session.may_deliver()
            && let Some((topic, payload, retain)) = connection.waiting.pop_front()
        {
            let mut out = BytesMut::new();
            let delivered =
                connection
                    .session
                    .deliver(topic.as_bytes(), &payload, retain, &mut out);
            if !delivered {
                continue;
            }
            stage.oracle.delivered(&connection.identity, &topic);
            if let Some(packet) = published(&out) {
                stage.send_down(id, packet);
            }
        }
    }
}

/// A PUBLISH as the gate wrote it, read back.
fn published(bytes: &[u8]) -> Option<ToClient> {
    let frame = frame(bytes, PACKET_BYTES_MAX).ok()??;
    let Ok(Packet::Publish(publish)) = frame.read(bytes) else {
        return None;
    };
    Some(ToClient::Publish {
        topic: publish.topic.to_owned(),
        payload: Bytes::copy_from_slice(publish.payload),
        pkid: publish.pkid,
    })
}
