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
use super::super::queue::wall_ms;
use super::super::stage::{AggregatorEvent, Stage};
use super::super::unit::device;
use super::{Aggregator, Link, Missed};

/// The name in the certificate of an aggregator.
pub(in crate::sim) fn name(place: usize) -> DeviceId {
    device(&format!("centre-{place}"))
}

impl Aggregator {
    /// Keeps connection, subscriptions and beacons as holdings and gate want them.
    pub(super) fn present(&mut self, stage: &mut Stage) {
        let now_ms = wall_ms(stage.now());
        let Some(running) = &mut self.running else {
            return;
        };
        let owned: BTreeSet<Shard> = running.holdings.tokens.keys().copied().collect();
        match running.link {
            Link::Down if !owned.is_empty() => {
                running.link = Link::Dialling;
                let takes = stage.dice.between(5, 2_000);
                self.later(stage, takes, AggregatorEvent::Dial);
            }
            Link::Connected(id, _) | Link::Greeting(id) if owned.is_empty() => {
                running.link = Link::Down;
                running.subscribed.clear();
                running.told = None;
                stage.cut(id, 1);
            }
            Link::Connected(id, is_subscribed) => {
                let news = owned.difference(&running.subscribed);
                let filters: Vec<String> = news.map(|shard| up_filter(*shard)).collect();
                running.subscribed = owned;
                if !filters.is_empty() {
                    stage.send_up(id, ToBroker::Subscribe(filters));
                }
                let Some(centre) = running.holdings.centre.filter(|_| is_subscribed) else {
                    return;
                };
                let state = (running.holdings.clone(), running.gate.clone());
                if running.told.as_ref() == Some(&state) {
                    return;
                }
                for (shard, token) in &running.holdings.tokens {
                    let message = Beacon {
                        centre,
                        token: token.unsigned_abs(),
                        build: "simulated".to_owned(),
                        wire_min: WIRE_VERSION_MIN,
                        wire_max: WIRE_VERSION,
                        intake: running.gate.intake(),
                        sent_at: EventTime::from_millis(now_ms),
                        summaries_age_max_ms: summaries_age_max_ms(HORIZON_MS),
                    };
                    let packet = ToBroker::Publish {
                        topic: beacon(*shard),
                        payload: Down::Beacon(message).encode().into(),
                        retain: true,
                        pkid: Some(1),
                    };
                    stage.send_up(id, packet);
                }
                running.told = Some(state);
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
        if !stage.weather.broker_up || running.holdings.tokens.is_empty() {
            return;
        }
        let id = stage.connect(client);
        let client_id = name(self.place).as_str().to_owned();
        stage.send_up(id, ToBroker::Connect { client_id });
        running.subscribed.clear();
        running.told = None;
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
            ToClient::Connected => running.link = Link::Connected(id, false),
            ToClient::Subscribed if running.link == Link::Connected(id, false) => {
                running.link = Link::Connected(id, true);
            }
            ToClient::Gone => {
                running.link = Link::Down;
                running.subscribed.clear();
                running.told = None;
            }
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
