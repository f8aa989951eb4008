//! What the broker and the units are told of us: subscriptions and beacons.
//!
//! Order on a connection: subscribe, wait for the acknowledgement, then publish the beacons, so that
//! nobody is invited before somebody listens. A beacon is published when it says something new: each
//! goes to every unit of its shard.
//!
//! Invariant: nothing is said about a shard whose lease may be another's by now. A beacon is kept by
//! the broker, and one of a former owner would be believed by whoever connects next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::EventTime;
use proto::frame::{Down, WIRE_VERSION, WIRE_VERSION_MIN};
use proto::receipt::{Beacon, Intake};
use proto::topic::{Shard, beacon, up_filter};
use rumqttc::{AsyncClient, QoS, SubscribeFilter};
use service::clock::wall_millis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mqtt::{Gate, Link};
use crate::commit::lease::Holdings;

/// The task that subscribes and publishes beacons, at one broker.
pub struct Presence {
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// How long a lease lasts.
    pub lease: Duration,
    /// When the leases were renewed last.
    pub renewed: watch::Receiver<Instant>,
    /// Whether frames are taken.
    pub gate: watch::Receiver<Gate>,
    /// The state of the connection.
    pub link: watch::Receiver<Link>,
    /// How long ago a window may have begun that takes summaries.
    pub summaries_age_max_ms: u64,
}

/// What a broker was told over the connection that stands.
#[derive(Default)]
struct Told {
    subscribed: BTreeSet<Shard>,
    beacons: BTreeMap<Shard, (i64, Intake)>,
}

impl Presence {
    /// Keeps subscriptions and beacons true until `stop`, then says that intake is closed, unless
    /// another aggregator takes over: its beacons invite the units to send at once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut told = Told::default();
        loop {
            let holdings = self.holdings.borrow_and_update().clone();
            let gate = self.gate.borrow_and_update().clone();
            let link = self.link.borrow_and_update().clone();
            let hands_over = stop.is_cancelled() && holdings.other.is_some();
            match link {
                Link::Down => told = Told::default(),
                Link::Connected(client) => {
                    // The acknowledgement changes the link, which brings us back here.
                    subscribe(&client, &holdings, &mut told).await;
                }
                Link::Subscribed(client) => {
                    subscribe(&client, &holdings, &mut told).await;
                    if !hands_over {
                        let intake = if stop.is_cancelled() {
                            Intake::Closed
                        } else {
                            gate.intake()
                        };
                        self.publish_beacons(&client, &holdings, intake, &mut told)
                            .await;
                    }
                }
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                changed = self.holdings.changed() => if changed.is_err() { return },
                changed = self.gate.changed() => if changed.is_err() { return },
                changed = self.link.changed() => if changed.is_err() { return },
                // What was not said for want of a lease is said as soon as it stands again.
                changed = self.renewed.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn publish_beacons(
        &self,
        client: &AsyncClient,
        holdings: &Holdings,
        intake: Intake,
        told: &mut Told,
    ) {
        let Some(centre) = holdings.centre else {
            return;
        };
        told.beacons
            .retain(|shard, _| holdings.tokens.contains_key(shard));
        for (shard, token) in &holdings.tokens {
            if told.beacons.get(shard) == Some(&(*token, intake)) {
                continue;
            }
            if self.renewed.borrow().elapsed() >= self.lease {
                return;
            }
            let message = Beacon {
                centre,
                token: token.unsigned_abs(),
                build: env!("CARGO_PKG_VERSION").to_owned(),
                wire_min: WIRE_VERSION_MIN,
                wire_max: WIRE_VERSION,
                intake,
                sent_at: EventTime::from_millis(wall_millis()),
                summaries_age_max_ms: self.summaries_age_max_ms,
            };
            let frame = Down::Beacon(message).encode();
            let published = client.publish(beacon(*shard), QoS::AtLeastOnce, true, frame);
            if published.await.is_ok() {
                told.beacons.insert(*shard, (*token, intake));
            }
        }
    }
}

/// Subscribes to what is owned and not yet subscribed, unsubscribes from the rest. Errors mean that
/// the connection is gone, which its own task sees.
async fn subscribe(client: &AsyncClient, holdings: &Holdings, told: &mut Told) {
    let owned: BTreeSet<Shard> = holdings.tokens.keys().copied().collect();
    let filters: Vec<SubscribeFilter> = owned
        .difference(&told.subscribed)
        .map(|shard| SubscribeFilter::new(up_filter(*shard), QoS::AtMostOnce))
        .collect();
    for gone in told.subscribed.difference(&owned) {
        client.unsubscribe(up_filter(*gone)).await.ok();
    }
    told.subscribed = owned;
    if !filters.is_empty() {
        client.subscribe_many(filters).await.ok();
    }
}
