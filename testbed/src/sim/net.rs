//! ● Connections: bytes arrive in their order, late, or never.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::queue::Millis;
use super::stage::{Event, Stage};

/// Who is connected. A life is one run of a program: what was meant for an earlier one is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Client {
    Unit(usize, u32),
    Aggregator(usize, u32),
    Intruder,
}

/// One connection among all there ever were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

/// What a client sends to the broker.
#[derive(Debug, Clone)]
pub(super) enum ToBroker {
    Connect {
        client_id: String,
    },
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Publish {
        topic: String,
        payload: Bytes,
        retain: bool,
        pkid: Option<u16>,
    },
    PubAck(u16),
}

/// What the broker sends to a client.
#[derive(Debug, Clone)]
pub(super) enum ToClient {
    Connected,
    Subscribed,
    PubAck(u16),
    Publish {
        topic: String,
        payload: Bytes,
        pkid: Option<u16>,
    },
    /// The connection is gone, and the client has noticed.
    Gone,
}

#[derive(Debug)]
struct Pipe {
    client: Client,
    /// When the last thing that is on its way arrives, either way.
    up_at: Millis,
    down_at: Millis,
}

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Net {
    opened: u64,
    pipes: BTreeMap<ConnectionId, Pipe>,
}

impl Net {
    pub(super) fn client(&self, id: ConnectionId) -> Option<Client> {
        self.pipes.get(&id).map(|pipe| pipe.client)
    }

    pub(super) fn of(&self, wanted: impl Fn(Client) -> bool) -> Vec<ConnectionId> {
        let pipes = self.pipes.iter().filter(|(_, pipe)| wanted(pipe.client));
        pipes.map(|(id, _)| *id).collect()
    }
}

impl Stage {
    pub(super) fn connect(&mut self, client: Client) -> ConnectionId {
        self.net.opened += 1;
        let id = ConnectionId(self.net.opened);
        let pipe = Pipe {
            client,
            up_at: 0,
            down_at: 0,
        };
        self.net.pipes.insert(id, pipe);
        id
    }

    pub(super) fn send_up(&mut self, id: ConnectionId, packet: ToBroker) {
        let latency = self.latency();
        let now = self.queue.now();
        if let Some(pipe) = self.net.pipes.get_mut(&id) {
            pipe.up_at = pipe.up_at.max(now + latency);
            self.queue.at(pipe.up_at, Event::ToBroker(id, packet));
        }
    }

    pub(super) fn send_down(&mut self, id: ConnectionId, packet: ToClient) {
        let latency = self.latency();
        let now = self.queue.now();
        if let Some(pipe) = self.net.pipes.get_mut(&id) {
            pipe.down_at = pipe.down_at.max(now + latency);
            self.queue
                .at(pipe.down_at, Event::ToClient(pipe.client, id, packet));
        }
    }

    /// Ends a connection; whatever is on its way is lost. The client notices after `unnoticed`.
    pub(super) fn cut(&mut self, id: ConnectionId, unnoticed: Millis) {
        if let Some(pipe) = self.net.pipes.remove(&id) {
            let gone = Event::ToClient(pipe.client, id, ToClient::Gone);
            self.queue.after(unnoticed, gone);
        }
    }

    fn latency(&mut self) -> Millis {
        let most = self.weather.latency_ms_max;
        self.dice.between(1, most)
    }
}
