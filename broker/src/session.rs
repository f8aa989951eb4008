//! One connection's side of MQTT: what each packet leads to.
//!
//! Between [`crate::packet`] and the router: nothing reaches the router without a [`Step`] from
//! here, so it never sees a packet that could harm it or make it drop a client.
//!
//! QoS 1 is spoken here alone. Towards the router everything is QoS 0: a PUBACK is sent as soon as
//! the message is in the router's queue (both are the same memory, and both die together), and a
//! message to a subscriber gets its identifier from this session's [`Window`].
//!
//! Departure from the standard: a filter that is subscribed again on the same connection changes its
//! QoS, but its retained message does not come a second time.
//!
//! Invariants: a step exists only for what the role may do; a violation ends the connection; the
//! number of subscriptions, topics, open requests and unacknowledged messages is bounded.
//!
//! Pure.

mod admission;

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::{Bytes, BytesMut};

pub use self::admission::{ConnectRefusal, KEEP_ALIVE_S_MAX, admit};
use crate::acl::{self, Denied, Rights};
use crate::identity::Identity;
use crate::packet::{self, Packet, PacketError, Qos};
use crate::window::Window;

/// SUBSCRIBE and UNSUBSCRIBE packets of one connection that the router has not answered yet. A
/// client beyond this is closed.
const REQUESTS_OPEN_MAX: usize = 128;

/// The bounds of one session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Filters subscribed to at a time, and filters in one packet.
    pub subscriptions_max: usize,
    /// Different topics that one connection may publish to.
    pub topics_max: usize,
    /// Messages delivered at QoS 1 and not acknowledged.
    pub window: u16,
}

/// What a client must not do. It ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// CONNECT is only the first packet.
    #[error("second CONNECT")]
    ConnectAgain,
    /// A publish outside the role's rights.
    #[error("publish to {topic:?}: {reason}")]
    Publish {
        /// Where to, shortened.
        topic: String,
        /// Why not.
        reason: Denied,
    },
    /// A subscription outside the role's rights.
    #[error("the role may not subscribe to {0:?}")]
    Subscribe(String),
    /// Too many filters.
    #[error("more than {0} subscriptions")]
    Subscriptions(usize),
    /// Too many topics.
    #[error("more than {0} different topics published to")]
    Topics(usize),
    /// Too many requests at a time.
    #[error("more than {REQUESTS_OPEN_MAX} requests without an answer")]
    Requests,
    /// An acknowledgement of nothing.
    #[error("acknowledges {0}, which is not under way")]
    PubAck(u16),
}

impl Violation {
    /// The label in metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Packet(PacketError::TooLarge { .. }) => "packet_too_large",
            Self::Packet(PacketError::Kind(_)) => "packet_kind",
            Self::Packet(PacketError::Qos(_)) => "qos",
            Self::Packet(PacketError::Topic) => "topic_form",
            Self::Packet(PacketError::Protocol) => "protocol",
            Self::Packet(_) => "malformed",
            Self::ConnectAgain => "connect_again",
            Self::Publish {
                reason: Denied::Topic,
                ..
            } => "publish_topic",
            Self::Publish {
                reason: Denied::Retain,
                ..
            } => "publish_retain",
            Self::Subscribe(_) => "subscribe",
            Self::Subscriptions(_) => "subscriptions",
            Self::Topics(_) => "topics",
            Self::Requests => "requests",
            Self::PubAck(_) => "puback",
        }
    }
}

/// What a packet leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Hand it to the router, then acknowledge if asked for.
    Publish {
        /// Shared by all messages of this topic.
        topic: Bytes,
        /// Still in the read buffer.
        payload: &'a [u8],
        /// To be kept for later subscribers.
        retain: bool,
        /// The identifier to acknowledge.
        pkid: Option<u16>,
    },
    /// Subscribe in the router; its answer goes to [`Session::subscribed`].
    Subscribe(Vec<&'a str>),
    /// Unsubscribe in the router; its answers, one per filter, go to [`Session::unsubscribed`].
    Unsubscribe(Vec<String>),
    /// Nothing of that was subscribed: answer at once.
    NotSubscribed(u16),
    /// Answer the ping.
    Pong,
    /// Nothing to do.
    Taken,
    /// Close in good order.
    Leave,
}

/// A request that the router has not answered.
#[derive(Debug)]
enum Request {
    Subscribe { pkid: u16, granted: Vec<Qos> },
    Unsubscribe { pkid: u16, left: usize },
}

/// One connection after its CONNECT.
#[derive(Debug)]
pub struct Session {
    rights: Rights,
    limits: SessionLimits,
    /// What is subscribed, and at which level.
    granted: HashMap<String, Qos>,
    /// The one level of all subscriptions, while there is one: spares a lookup per message.
    uniform: Option<Qos>,
    /// Topics that passed the rights, so that each is judged and stored once.
    topics: HashSet<Bytes>,
    requests: VecDeque<Request>,
    window: Window,
}

impl Session {
    /// A session without subscriptions.
    #[must_use]
    pub fn new(identity: &Identity, limits: SessionLimits) -> Self {
        Self {
            rights: Rights::of(identity),
            limits,
            granted: HashMap::new(),
            uniform: None,
            topics: HashSet::new(),
            requests: VecDeque::new(),
            window: Window::new(limits.window),
        }
    }

    /// Judges a packet.
    ///
    /// # Errors
    /// When the connection must end.
    pub fn judge<'a>(&mut self, packet: Packet<'a>) -> Result<Step<'a>, Violation> {
        Ok(match packet {
            Packet::Publish(publish) => Step::Publish {
                topic: self.topic(publish.topic, publish.retain)?,
                payload: publish.payload,
                retain: publish.retain,
                pkid: publish.pkid,
            },
            Packet::PubAck(pkid) => {
                if !self.window.acknowledge(pkid) {
                    return Err(Violation::PubAck(pkid));
                }
                Step::Taken
            }
            Packet::Subscribe { pkid, filters } => Step::Subscribe(self.subscribe(pkid, &filters)?),
            Packet::Unsubscribe { pkid, filters } => self.unsubscribe(pkid, &filters)?,
            Packet::PingReq => Step::Pong,
            Packet::Disconnect => Step::Leave,
            Packet::Connect(_) => return Err(Violation::ConnectAgain),
        })
    }

    fn topic(&mut self, name: &str, retain: bool) -> Result<Bytes, Violation> {
        if !retain && let Some(known) = self.topics.get(name.as_bytes()) {
            return Ok(known.clone());
        }
        self.rights
            .publish(name, retain)
            .map_err(|reason| Violation::Publish {
                topic: shown(name),
                reason,
            })?;
        if let Some(known) = self.topics.get(name.as_bytes()) {
            return Ok(known.clone());
        }
        if self.topics.len() >= self.limits.topics_max {
            return Err(Violation::Topics(self.limits.topics_max));
        }
        let topic = Bytes::copy_from_slice(name.as_bytes());
        self.topics.insert(topic.clone());
        Ok(topic)
    }

    fn subscribe<'a>(
        &mut self,
        pkid: u16,
        filters: &[(&'a str, Qos)],
    ) -> Result<Vec<&'a str>, Violation> {
        if filters.len() > self.limits.subscriptions_max {
            return Err(Violation::Subscriptions(self.limits.subscriptions_max));
        }
        if let Some((filter, _)) = filters
            .iter()
            .find(|(filter, _)| !self.rights.subscribe(filter))
        {
            return Err(Violation::Subscribe(shown(filter)));
        }
        let granted = filters.iter().map(|(_, qos)| *qos).collect();
        self.open(Request::Subscribe { pkid, granted })?;
        self.granted.extend(
            filters
                .iter()
                .map(|(filter, qos)| ((*filter).to_owned(), *qos)),
        );
        if self.granted.len() > self.limits.subscriptions_max {
            return Err(Violation::Subscriptions(self.limits.subscriptions_max));
        }
        self.find_uniform();
        Ok(filters.iter().map(|(filter, _)| *filter).collect())
    }

    /// The router answers once for each filter that was subscribed, and not at all for others.
    fn unsubscribe(&mut self, pkid: u16, filters: &[&str]) -> Result<Step<'static>, Violation> {
        let removed: Vec<String> = filters
            .iter()
            .filter_map(|filter| self.granted.remove_entry(*filter))
            .map(|(f, _)| f)
            .collect();
        self.find_uniform();
        if removed.is_empty() {
            return Ok(Step::NotSubscribed(pkid));
        }
        self.open(Request::Unsubscribe {
            pkid,
            left: removed.len(),
        })?;
        Ok(Step::Unsubscribe(removed))
    }

    fn open(&mut self, request: Request) -> Result<(), Violation> {
        if self.requests.len() >= REQUESTS_OPEN_MAX {
            return Err(Violation::Requests);
        }
        self.requests.push_back(request);
        Ok(())
    }

    fn find_uniform(&mut self) {
        let mut levels = self.granted.values();
        self.uniform = levels
            .next()
            .copied()
            .filter(|first| levels.all(|level| level == first));
    }

    /// The router has subscribed: answers the client.
    pub fn subscribed(&mut self, out: &mut BytesMut) {
        match self.requests.pop_front() {
            Some(Request::Subscribe { pkid, granted }) => packet::put_suback(out, pkid, &granted),
            other => unreachable!("the router answered a subscribe, open was {other:?}"),
        }
    }

    /// The router has removed one filter: answers the client after the last one of its packet.
    pub fn unsubscribed(&mut self, out: &mut BytesMut) {
        match self.requests.front_mut() {
            Some(Request::Unsubscribe { pkid, left: 1 }) => {
                packet::put_unsuback(out, *pkid);
                self.requests.pop_front();
            }
            Some(Request::Unsubscribe { left, .. }) => *left -= 1,
            other => unreachable!("the router answered an unsubscribe, open was {other:?}"),
        }
    }

    /// Whether a message may be delivered now; otherwise it waits in the router.
    #[must_use]
    pub fn may_deliver(&self) -> bool {
        !self.window.is_full()
    }

    /// Writes a message of the router to the client, at the level of its subscription. `false`
    /// when the client has unsubscribed meanwhile.
    pub fn deliver(
        &mut self,
        topic: &[u8],
        payload: &[u8],
        retain: bool,
        out: &mut BytesMut,
    ) -> bool {
        let Some(qos) = self.uniform.or_else(|| self.level_of(topic)) else {
            return false;
        };
        let pkid = match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(self.window.take()),
        };
        packet::put_publish(out, topic, payload, retain, pkid);
        true
    }

    fn level_of(&self, topic: &[u8]) -> Option<Qos> {
        let filter = acl::filter_of(std::str::from_utf8(topic).ok()?)?;
        self.granted.get(&filter).copied()
    }
}

/// A name from outside, short enough for a log line.
fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
