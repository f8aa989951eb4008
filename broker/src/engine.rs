//! rumqttd's Router, and the only way to it.
//!
//! The router is a thread that copies messages from publishers to the rings of matching filters and
//! from there to subscribers. It trusts whoever holds a link, so links are held by this crate alone
//! and every packet was judged by [`crate::session`] before.
//!
//! What the router can die of or be hurt by, and what keeps it from that:
//! - a `Ready` event for a connection that is gone panics: [`Link::close`] disconnects only after
//!   the router is known to have handled the last wake;
//! - `LinkTx::send` blocks its thread when the router's queue is full: [`Link::flush`] looks at the
//!   queue's length first; messages come over one link alone ([`crate::inlet`]);
//! - two links of one name are mixed up: [`crate::names`] gives out each name once;
//! - a link that is dropped stays registered: `close` says Disconnect and waits until the router
//!   lets go;
//! - a publish to a topic without any filter costs a search over all filters: the 128 filters of the
//!   centre and the beacons exist from the start.
//!
//! Links subscribe and publish at QoS 0, so the router keeps no acknowledgement state; it stops by
//! itself when some 200 messages wait for a link, and goes on when it is woken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, Publish, QoS, RetainForwardRule, Subscribe,
    Unsubscribe,
};
use rumqttd::{Notification, Router, RouterConfig, SegmentConfig};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::acl;
use crate::canary::CANARY;
use crate::config::RouterSettings;
use crate::inlet::Inlet;

/// The router's queue holds 1,000 events and a full one blocks the sender's thread. Above this
/// length senders wait instead; the rest is for threads that looked at the same moment.
const QUEUE_LEN_MAX: usize = 800;
/// How long a sender waits before it looks at the queue again.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// Messages that the router reads from one ring at a time.
const READ_COUNT_MAX: u64 = 100;
/// Links that are being made at a time: each holds a thread while the router answers.
const LINKING_MAX: usize = 4;
/// Links of this crate's own: the canary, the barrier, the inlet.
const OWN_LINKS: usize = 3;
/// The router answers within microseconds; one that takes this long is dead, and the canary says so.
const ROUTER_PATIENCE: Duration = Duration::from_secs(30);
/// The link that is made and closed only to know that the router has come that far.
const BARRIER: &str = "verst.barrier";
/// The link over which all messages reach the router.
const INLET: &str = "verst.inlet";

type Parts = Result<(LinkTx, LinkRx), RouterGone>;

/// The router has dropped a link, refused one, or ended.
#[derive(Debug, thiserror::Error)]
#[error("the router is gone: {0}")]
pub struct RouterGone(String);

impl From<LinkError> for RouterGone {
    fn from(error: LinkError) -> Self {
        Self(error.to_string())
    }
}

/// The running router. Clones speak to the same one.
#[derive(Clone)]
pub struct Engine {
    /// The sender's event type has no public name, hence two closures instead of the sender.
    make: Arc<dyn Fn(&str) -> Parts + Send + Sync>,
    queued: Arc<dyn Fn() -> usize + Send + Sync>,
    linking: Arc<Semaphore>,
    /// See [`ROUTER_PATIENCE`].
    patience: Duration,
    barrier: Arc<Mutex<()>>,
    inlet: Arc<Inlet>,
}

impl Engine {
    /// Starts the router's thread for at most `connections_max` links. Messages flow while
    /// [`Engine::carry`] is polled.
    #[must_use]
    pub fn start(settings: &RouterSettings, connections_max: usize) -> Self {
        let events = Router::new(0, router_config(settings, connections_max)).spawn();
        let queue = events.clone();
        Self {
            make: Arc::new(move |name| {
                let (tx, rx, _connack) = LinkBuilder::new(name, events.clone()).build()?;
                // It is made with room for 200 packets, of which a client sends a few in its life:
                // its messages come over the inlet.
                tx.buffer().shrink_to_fit();
                Ok((tx, rx))
            }),
            queued: Arc::new(move || queue.len()),
            linking: Arc::new(Semaphore::new(LINKING_MAX)),
            patience: ROUTER_PATIENCE,
            barrier: Arc::default(),
            inlet: Arc::default(),
        }
    }

    /// Hands messages to the router until the stop.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn carry(self, stop: CancellationToken) -> Result<(), RouterGone> {
        let mut link = self.link(INLET).await?;
        let ended = tokio::select! {
            ended = self.inlet.carry(&mut link) => ended,
            () = stop.cancelled() => Ok(()),
        };
        link.close().await;
        ended
    }

    /// Registers `name` with the router. The name must not be registered.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn link(&self, name: &str) -> Result<Link, RouterGone> {
        let permit = self.linking.clone().acquire_owned().await;
        let permit = permit.map_err(|error| RouterGone(error.to_string()))?;
        let (make, name) = (self.make.clone(), name.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let parts = make(&name);
            drop(permit);
            parts
        });
        let (tx, rx) = made
            .await
            .map_err(|error| RouterGone(error.to_string()))??;
        Ok(Link {
            tx,
            rx,
            engine: self.clone(),
            held: None,
            woken: false,
        })
    }

    /// Events that wait for the router.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        (self.queued)()
    }

    async fn room(&self) {
        while self.queue_len() >= QUEUE_LEN_MAX {
            sleep(QUEUE_PAUSE).await;
        }
    }

    /// Returns when the router has handled everything that was queued before: it takes events in
    /// order, and answers this one.
    async fn settle(&self) -> Result<(), RouterGone> {
        let _alone = self.barrier.lock().await;
        let mut link = self.link(BARRIER).await?;
        link.say_goodbye().await;
        Ok(())
    }
}

/// What the router says to a link.
#[derive(Debug)]
pub enum Routed {
    /// A message.
    Message(Publish),
    /// It has subscribed all filters of one packet.
    Subscribed,
    /// It has removed one filter.
    Unsubscribed,
    /// It has stopped, because too much waits for this link, until [`Link::resume`].
    Paused,
}

/// One connection's way to the router. Must be ended with [`Link::close`].
pub struct Link {
    tx: LinkTx,
    rx: LinkRx,
    engine: Engine,
    /// The last packet: it is sent together with the event that tells the router of all.
    held: Option<Packet>,
    /// Whether the router was woken and has not said anything since.
    woken: bool,
}

impl Link {
    /// Lays a message down for the router, behind those of all other connections, unless it is the
    /// beacon of a former owner: then `false`.
    pub fn publish(&self, topic: bytes::Bytes, payload: &[u8], retain: bool) -> bool {
        self.engine.inlet.lay(topic, payload, retain)
    }

    /// Lays a subscription ready.
    pub fn subscribe(&mut self, filters: &[&str]) {
        let filters = filters.iter().map(|filter| Filter {
            path: (*filter).to_owned(),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::OnEverySubscribe,
        });
        self.lay(Packet::Subscribe(
            Subscribe {
                pkid: 1,
                filters: filters.collect(),
            },
            None,
        ));
    }

    /// Lays the end of subscriptions ready.
    pub fn unsubscribe(&mut self, filters: Vec<String>) {
        self.lay(Packet::Unsubscribe(Unsubscribe { pkid: 1, filters }, None));
    }

    fn lay(&mut self, packet: Packet) {
        if let Some(before) = self.held.replace(packet) {
            self.tx.buffer().push_back(before);
        }
    }

    /// Sends the subscriptions that were laid ready. Waits while the router's queue is full.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn flush(&mut self) -> Result<(), RouterGone> {
        if self.held.is_none() {
            return Ok(());
        }
        self.engine.room().await;
        if let Some(last) = self.held.take() {
            self.tx.send(last).await?;
        }
        Ok(())
    }

    /// Whether the router lags so far behind that no more messages should be taken for a moment.
    #[must_use]
    pub fn is_backed_up(&self) -> bool {
        self.engine.inlet.is_backed_up()
    }

    /// Whether the router has not fetched all that was sent over this link.
    #[must_use]
    pub fn is_lagging(&self) -> bool {
        !self.tx.buffer().is_empty()
    }

    /// Sends many packets as one.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn hand_over(&mut self, mut packets: VecDeque<Packet>) -> Result<(), RouterGone> {
        let Some(last) = packets.pop_back() else {
            return Ok(());
        };
        self.tx.buffer().append(&mut packets);
        self.lay(last);
        self.flush().await
    }

    /// What the router says next; `None` for a call that brought nothing. Cancel safe.
    ///
    /// # Errors
    /// When the router has dropped the link.
    pub async fn next(&mut self) -> Result<Option<Routed>, RouterGone> {
        let Some(notification) = self.rx.next().await? else {
            return Ok(None);
        };
        self.woken = false;
        Ok(match notification {
            Notification::Forward(forward) => Some(Routed::Message(forward.publish)),
            Notification::DeviceAck(ack) => match Packet::from(ack) {
                Packet::SubAck(..) => Some(Routed::Subscribed),
                Packet::UnsubAck(..) => Some(Routed::Unsubscribed),
                _ => None,
            },
            Notification::Unschedule => Some(Routed::Paused),
            _ => None,
        })
    }

    /// The same, if it is there already.
    ///
    /// # Errors
    /// When the router has dropped the link.
    pub fn try_next(&mut self) -> Result<Option<Routed>, RouterGone> {
        loop {
            match self.next().now_or_never() {
                None => return Ok(None),
                Some(Ok(None)) => {}
                Some(routed) => return routed,
            }
        }
    }

    /// Wakes the router after [`Routed::Paused`], exactly once for each.
    ///
    /// # Errors
    /// When the router is gone.
    pub async fn resume(&mut self) -> Result<(), RouterGone> {
        self.woken = true;
        Ok(self.rx.wake().await?)
    }

    /// Unregisters the link, and returns when the router has let go of its name.
    pub async fn close(mut self) {
        let patience = self.engine.patience;
        let end = async {
            if self.woken
                && let Err(error) = self.engine.settle().await
            {
                tracing::error!(%error, "router does not answer the barrier");
            }
            self.say_goodbye().await;
        };
        if timeout(patience, end).await.is_err() {
            tracing::error!("router has not released a link within {patience:?}");
        }
    }

    async fn say_goodbye(&mut self) {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        self.lay(Packet::Disconnect(Disconnect { reason_code }, None));
        if self.flush().await.is_ok() {
            // Ends with the error that says that the router has dropped its side.
            while self.rx.next().await.is_ok() {}
        }
    }
}

fn router_config(settings: &RouterSettings, connections_max: usize) -> RouterConfig {
    let ring = |bytes: usize, count: usize| SegmentConfig {
        max_segment_size: bytes,
        max_segment_count: count,
    };
    let down = ring(settings.down_segment_bytes, settings.down_segments);
    let rings = HashMap::from([
        ("verst/1/+/+/down".to_owned(), down),
        ("verst/1/+/beacon".to_owned(), ring(4 * 1024, 2)),
        (CANARY.to_owned(), ring(1024, 1)),
    ]);
    RouterConfig {
        max_connections: connections_max + OWN_LINKS,
        max_outgoing_packet_count: READ_COUNT_MAX,
        max_segment_size: settings.segment_bytes,
        max_segment_count: settings.segments,
        custom_segment: Some(rings),
        initialized_filters: Some(acl::standing_filters().collect()),
        ..RouterConfig::default()
    }
}

#[cfg(test)]
mod tests;
