//! ● The connection to the broker, subscriptions and beacons, as `aggregator/src/intake/mqtt.rs` and
//! `presence.rs` keep them.

use std::collections::BTreeSet;

use aggregator::intake::decode::decode;
use aggregator::intake::mqtt::Gate;
use aggregator::window::lateness::summaries_age_max_ms;
use bytes::Bytes;
use proto::frame::{Down, WIRE_VERSION, WIRE_VERSION_MIN};
use proto::receipt::Beacon;
use proto::topic::{Shard, beacon, down, up_filter};
use proto::{DeviceId, EventTime};

use super::super::net::{ConnectionId, ToBroker, ToClient};
use super::super::oracle::HORIZON_MS;
use super::super::queue::{Millis, wall_ms};
use super::super::stage::{AggregatorEvent, Stage};
use super::super::unit::device;
use super::{Aggregator, Link, Missed, Running};

/// The name in the certificate of an aggregator.
pub(in crate::sim) fn name(place: usize) -> DeviceId {
    device(&format!("centre-{place}"))
}

impl Running {
    /// The connection is gone, and with it whatever the broker knew.
    fn unlink(&mut self, now: Millis) {
        if matches!(self.link, Link::Connected(..)) {
            self.keeper.broker_seen = Some(now);
        }
        self.link = Link::Down;
        self.subscribed.clear();
        self.told.clear();
    }

    /// Says what is new of what is owned; nothing of leases that may be another's by now, and nothing
    /// any more when another takes over.
    fn publish_beacons(&mut self, stage: &mut Stage, id: ConnectionId) {
        let now = stage.now();
        let hands_over = self.stopping.is_some() && self.holdings.other.is_some();
        let Some(centre) = self.holdings.centre.filter(|_| !hands_over) else {
            return;
        };
        let intake = self.gate.intake();
        let owned = &self.holdings.tokens;
        self.told.retain(|shard, _| owned.contains_key(shard));
        for (shard, token) in owned {
            let news = (*token, intake);
            if self.told.get(shard) == Some(&news) || self.is_overdue(now) {
                continue;
            }
            let message = Beacon {
                centre,
                token: token.unsigned_abs(),
                build: "simulated".to_owned(),
                wire_min: WIRE_VERSION_MIN,
                wire_max: WIRE_VERSION,
                intake,
                sent_at: EventTime::from_millis(wall_ms(now)),
                summaries_age_max_ms: summaries_age_max_ms(HORIZON_MS),
            };
            let packet = ToBroker::Publish {
                topic: beacon(*shard),
                payload: Down::Beacon(message).encode().into(),
                retain: true,
                pkid: Some(1),
            };
            stage.send_up(id, packet);
            self.told.insert(*shard, news);
        }
    }
}

impl Aggregator {
    /// Keeps connection, subscriptions and beacons as holdings and gate want them.
    pub(super) fn present(&mut self, stage: &mut Stage) {
        let now = stage.now();
        let Some(running) = &mut self.running else {
            return;
        };
        let owned: BTreeSet<Shard> = running.holdings.tokens.keys().copied().collect();
        let takes_part = running.holdings.takes_part;
        match running.link {
            Link::Down if takes_part => {
                running.link = Link::Dialling;
                let takes = stage.dice.between(5, 2_000);
                self.later(stage, takes, AggregatorEvent::Dial);
            }
            Link::Connected(id, _) | Link::Greeting(id) if !takes_part => {
                running.unlink(now);
                stage.cut(id, 1);
            }
            Link::Connected(id, is_subscribed) => {
                let news = owned.difference(&running.subscribed);
                let filters: Vec<String> = news.map(|shard| up_filter(*shard)).collect();
                let gone = running.subscribed.difference(&owned);
                let gone: Vec<String> = gone.map(|shard| up_filter(*shard)).collect();
                running.subscribed = owned;
                if !gone.is_empty() {
                    stage.send_up(id, ToBroker::Unsubscribe(gone));
                }
                if !filters.is_empty() {
                    stage.send_up(id, ToBroker::Subscribe(filters));
                }
                if is_subscribed {
                    running.publish_beacons(stage, id);
                }
            }
            Link::Down | Link::Dialling | Link::Greeting(_) => {}
        }
    }

    pub(super) fn dialled(&mut self, stage: &mut Stage) {
        let client = self.client();
        let Some(running) = &mut self.running else {
            return;
        };
        running.link = Link::Down;
        if !stage.weather.broker_up || !running.holdings.takes_part {
            return;
        }
        let id = stage.connect(client);
        let client_id = name(self.place).as_str().to_owned();
        stage.send_up(id, ToBroker::Connect { client_id });
        running.link = Link::Greeting(id);
    }

    /// Something came over the connection.
    pub(in crate::sim) fn receive(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        packet: ToClient,
    ) {
        if let Some(missed) = &mut self.stopped {
            return missed.push(Missed::Packet(id, packet));
        }
        let Some(running) = &mut self.running else {
            return;
        };
        let is_current = match running.link {
            Link::Greeting(current) | Link::Connected(current, _) => current == id,
            Link::Down | Link::Dialling => false,
        };
        if !is_current {
            return;
        }
        match packet {
            ToClient::Connected => {
                running.link = Link::Connected(id, false);
                running.relinked |= std::mem::replace(&mut running.was_linked, true);
                // The others learn of it at once.
                self.later(stage, 1, AggregatorEvent::News);
            }
            ToClient::Subscribed if running.link == Link::Connected(id, false) => {
                running.link = Link::Connected(id, true);
            }
            ToClient::Gone => running.unlink(stage.now()),
            ToClient::Publish {
                topic,
                payload,
                pkid,
            } => {
                pkid.into_iter()
                    .for_each(|pkid| stage.send_up(id, ToBroker::PubAck(pkid)));
                self.take(stage, &topic, payload);
            }
            ToClient::Subscribed | ToClient::PubAck(_) => {}
        }
        self.present(stage);
    }

    fn take(&mut self, stage: &mut Stage, topic: &str, payload: Bytes) {
        let place = self.place;
        let Some(running) = &mut self.running else {
            return;
        };
        if running.gate != Gate::Open {
            return stage.say(format_args!("centre {place}: closed, drops {topic}"));
        }
        let decoded = running
            .door
            .admit(topic, payload)
            .map(|frame| decode(frame, true));
        match decoded {
            Ok(Ok(message)) => running.waiting.wait(vec![message]),
            Ok(Err(error)) => stage.say(format_args!("centre {place}: {topic}: {error}")),
            Err(dropped) => {
                stage.say(format_args!(
                    "centre {place}: drops {topic}: {}",
                    dropped.word()
                ));
            }
        }
    }

    /// Hands a message for a device to the connection; without one it is dropped.
    pub(super) fn send_down(&self, stage: &mut Stage, device: &DeviceId, message: &Down) {
        if let Down::Receipt(receipt) = message {
            stage
                .oracle
                .receipted(device, receipt.centre.timeline, &receipt.streams);
        }
        let link = self.running.as_ref().map(|running| running.link);
        if let Some(Link::Connected(id, _)) = link {
            let packet = ToBroker::Publish {
                topic: down(device),
                payload: message.encode().into(),
                retain: false,
                pkid: None,
            };
            stage.send_up(id, packet);
        }
    }
}
