//! What the broker and the units are told of us: subscriptions and beacons.
//!
//! Order on a connection: subscribe, wait for the acknowledgement, then publish the beacons, so that
//! nobody is invited before somebody listens.

use std::collections::BTreeSet;

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

/// The task that subscribes and publishes beacons.
pub struct Presence {
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// Whether frames are taken.
    pub gate: watch::Receiver<Gate>,
    /// The state of the connection.
    pub link: watch::Receiver<Link>,
    /// How long ago a window may have begun that takes summaries.
    pub summaries_age_max_ms: u64,
}

impl Presence {
    /// Keeps subscriptions and beacons true until `stop`, then says that intake is closed.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut subscribed = BTreeSet::new();
        loop {
            let holdings = self.holdings.borrow_and_update().clone();
            let gate = self.gate.borrow_and_update().clone();
            let link = self.link.borrow_and_update().clone();
            match link {
                Link::Down => subscribed.clear(),
                Link::Connected(client) => {
                    if subscribe(&client, &holdings, &mut subscribed).await {
                        // The acknowledgement changes the link, which brings us back here.
                        tracing::debug!(shards = holdings.tokens.len(), "subscribing");
                    }
                }
                Link::Subscribed(client) => {
                    subscribe(&client, &holdings, &mut subscribed).await;
                    self.publish_beacons(&client, &holdings, gate.intake())
                        .await;
                }
            }
            let changed = async {
                tokio::select! {
                    changed = self.holdings.changed() => changed.is_ok(),
                    changed = self.gate.changed() => changed.is_ok(),
                    changed = self.link.changed() => changed.is_ok(),
                }
            };
            let go_on = tokio::select! {
                () = stop.cancelled() => false,
                changed = changed => changed,
            };
            if !go_on {
                break;
            }
        }
        let link = self.link.borrow().clone();
        let holdings = self.holdings.borrow().clone();
        if let Link::Subscribed(client) = link {
            self.publish_beacons(&client, &holdings, Intake::Closed)
                .await;
        }
    }

    async fn publish_beacons(&self, client: &AsyncClient, holdings: &Holdings, intake: Intake) {
        let Some(centre) = holdings.centre else {
            return;
        };
        for (shard, token) in &holdings.tokens {
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
            client
                .publish(beacon(*shard), QoS::AtLeastOnce, true, frame)
                .await
                .ok();
        }
    }
}

/// Subscribes to what is owned and not yet subscribed, unsubscribes from the rest. Says whether
/// anything was asked for. Errors mean that the connection is gone, which its own task sees.
async fn subscribe(
    client: &AsyncClient,
    holdings: &Holdings,
    subscribed: &mut BTreeSet<Shard>,
) -> bool {
    let owned: BTreeSet<Shard> = holdings.tokens.keys().copied().collect();
    let filters: Vec<SubscribeFilter> = owned
        .difference(subscribed)
        .map(|shard| SubscribeFilter::new(up_filter(*shard), QoS::AtLeastOnce))
        .collect();
    for gone in subscribed.difference(&owned) {
        client.unsubscribe(up_filter(*gone)).await.ok();
    }
    *subscribed = owned;
    let asked = !filters.is_empty();
    if asked {
        client.subscribe_many(filters).await.ok();
    }
    asked
}
