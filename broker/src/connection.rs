//! One connection after its CONNACK: bytes in, verdicts, bytes out.
//!
//! Between the socket and the router. Reading, writing and the router's messages are waited for at
//! once, so that neither direction holds up the other; all that is ready is taken together and
//! written in as few TLS records as it fits in. Each write costs more than what is in it, so a
//! unit's PUBACKs wait for its receipt ([`crate::puback`]).
//!
//! Bounds, and what happens at each:
//! - bytes waiting to be written: above `OUT_BYTES_LOW` nothing more is fetched from the router
//!   (its ring holds the rest); above `OUT_BYTES_HIGH` the client is not read from; no progress
//!   for the write timeout ends the connection;
//! - a rate above the limit, or a router that lags: the client is not read from for a while;
//! - silence of one and a half keep-alives ends the connection; only whole packets break silence.

use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use service::clock::monotonic;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use crate::config::PACKET_BYTES_MAX;
use crate::engine::{Link, Routed, RouterGone};
use crate::metrics::{Closed, Kind, Metrics};
use crate::names::Ending;
use crate::packet::{self, PUBACK_BYTES, Packet};
use crate::puback::Owed;
use crate::rates::Bucket;
use crate::session::{Session, Step, Violation};
use crate::socket::{Moved, make_room, poll_socket, say_last};

/// What waits to be written, before no more messages are fetched from the router.
const OUT_BYTES_LOW: usize = 128 * 1024;
/// What waits to be written, before no more is read: the difference is left for acknowledgements.
const OUT_BYTES_HIGH: usize = OUT_BYTES_LOW + PACKET_BYTES_MAX + 64 * 1024;
/// How long reading pauses when the router lags.
const ROUTER_PAUSE: Duration = Duration::from_millis(2);
/// How long a goodbye may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// The times and rates of one connection.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Silence after which it ends: one and a half keep-alives.
    pub idle: Duration,
    /// Unread output after which it ends.
    pub write_timeout: Duration,
    /// When its certificate ends.
    pub certificate_end: Instant,
    /// Messages and bytes; none for the centre.
    pub rates: Option<(Bucket, Bucket)>,
}

/// Why it ended, and what the client did if that was the reason.
pub type End = (Closed, Option<Violation>);

/// A connection that is being served.
pub struct Connection {
    /// The encrypted socket.
    pub stream: TlsStream<TcpStream>,
    /// What was read and not yet judged.
    pub inbox: BytesMut,
    /// What is to be written.
    pub outbox: BytesMut,
    /// The verdicts.
    pub session: Session,
    /// The way to the router.
    pub link: Link,
    /// Times and rates.
    pub pace: Pace,
    /// Who may ask for its end.
    pub ending: Ending,
    /// Counters.
    pub metrics: Metrics,
}

/// What woke the loop.
enum Event {
    Asked(Closed),
    Moved(io::Result<Moved>),
    Routed(Result<Option<Routed>, RouterGone>),
    Time,
}

/// The clocks of one connection.
struct Watch {
    heard_at: Instant,
    /// Since when output waits without progress.
    waiting_since: Instant,
    /// Until when the client is not read from.
    paused_until: Option<Instant>,
    /// PUBACKs that wait in the output.
    owed: Owed,
}

impl Connection {
    /// Serves it to its end, closes the socket and gives the link back to the router.
    pub async fn serve(mut self) -> End {
        let end = self.run().await;
        // A client that misbehaves, is gone or does not read gets no last words.
        if matches!(end.0, Closed::Client | Closed::Stop) {
            say_last(&mut self.stream, &self.outbox, FAREWELL).await;
        }
        self.link.close().await;
        end
    }

    async fn run(&mut self) -> End {
        let now = monotonic();
        let mut watch = Watch {
            heard_at: now,
            waiting_since: now,
            paused_until: None,
            owed: Owed::new(now),
        };
        let timer = sleep_until(now.into());
        tokio::pin!(timer);
        let mut unflushed = false;
        // What came together with CONNECT is judged before anything is waited for.
        if let Err(end) = self.judge_inbox(&mut watch).await {
            return end;
        }
        loop {
            let writing = unflushed || self.must_write(&watch);
            if let Err(end) = self.look_at_clocks(&mut watch, writing, timer.as_mut()) {
                return (end, None);
            }
            let reading = watch.paused_until.is_none() && self.outbox.len() < OUT_BYTES_HIGH;
            let fetching = self.outbox.len() < OUT_BYTES_LOW && self.session.may_deliver();
            let (stream, inbox, outbox) = (&mut self.stream, &mut self.inbox, &mut self.outbox);
            let event = tokio::select! {
                reason = self.ending.asked() => Event::Asked(reason),
                moved = std::future::poll_fn(|cx| {
                    let (inbox, outbox) =
                        (reading.then_some(&mut *inbox), writing.then_some(&mut *outbox));
                    poll_socket(cx, stream, inbox, outbox, &mut unflushed)
                }), if reading || writing => Event::Moved(moved),
                routed = self.link.next(), if fetching => Event::Routed(routed),
                () = timer.as_mut() => Event::Time,
            };
            let outcome = match event {
                Event::Asked(reason) => Err((reason, None)),
                Event::Moved(moved) => self.socket_moved(moved, &mut watch).await,
                Event::Routed(routed) => self.routed(routed, writing, &mut watch).await,
                Event::Time => Ok(()),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Whether something waits in the output that is not a PUBACK with time left.
    fn must_write(&self, watch: &Watch) -> bool {
        self.outbox.len() > watch.owed.count() * PUBACK_BYTES
            || watch.owed.due().is_some_and(|due| due <= monotonic())
    }

    /// Ends what is overdue, lifts a pause that is over, and sets the timer to what comes next.
    fn look_at_clocks(
        &self,
        watch: &mut Watch,
        writing: bool,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), Closed> {
        let now = monotonic();
        if watch.paused_until.is_some_and(|until| until <= now) {
            // While it was not read from, the client could not be heard.
            watch.paused_until = None;
            watch.heard_at = now;
        }
        let idle_at = watch.heard_at + self.pace.idle;
        let stuck_at = watch.waiting_since + self.pace.write_timeout;
        if watch.paused_until.is_none() && idle_at <= now {
            return Err(Closed::Idle);
        }
        if writing && stuck_at <= now {
            return Err(Closed::Stuck);
        }
        if self.pace.certificate_end <= now {
            return Err(Closed::Expired);
        }
        let next = watch
            .paused_until
            .unwrap_or(idle_at)
            .min(self.pace.certificate_end);
        let next = if writing { next.min(stuck_at) } else { next };
        // While something is written they go along.
        let due = watch.owed.due().filter(|_| !writing);
        let next = due.map_or(next, |due| next.min(due));
        // A timer that is early only looks again; moving it for each packet would cost more.
        let set_for = timer.deadline().into_std();
        if next < set_for || set_for <= now {
            timer.as_mut().reset(next.into());
        }
        Ok(())
    }

    async fn socket_moved(
        &mut self,
        moved: io::Result<Moved>,
        watch: &mut Watch,
    ) -> Result<(), End> {
        let Ok(moved) = moved else {
            return Err((Closed::Lost, None));
        };
        if let Some(count) = moved.written {
            self.metrics.sent.bytes.inc_by(count as u64);
            watch.waiting_since = monotonic();
            watch.owed.gone();
        }
        match moved.read {
            Some(0) => Err((Closed::Lost, None)),
            Some(count) => {
                self.metrics.received.bytes.inc_by(count as u64);
                let was_idle = self.outbox.is_empty();
                self.judge_inbox(watch).await?;
                self.note_waiting(was_idle, watch);
                make_room(&mut self.inbox, count);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn note_waiting(&self, was_idle: bool, watch: &mut Watch) {
        if was_idle && !self.outbox.is_empty() {
            watch.waiting_since = monotonic();
        }
    }

    /// Judges every whole packet that was read, and sends the router what they lead to.
    async fn judge_inbox(&mut self, watch: &mut Watch) -> Result<(), End> {
        let (before, mut packets) = (self.inbox.len(), 0_u32);
        let outcome = loop {
            match self.judge_one(watch) {
                Ok(true) => packets += 1,
                Ok(false) => break Ok(()),
                Err(end) => break Err(end),
            }
        };
        // What was judged good goes on even if the packet after it ends the connection.
        self.link
            .flush()
            .await
            .map_err(|_| (Closed::Router, None))?;
        outcome?;
        if packets > 0 {
            let now = monotonic();
            watch.heard_at = now;
            self.charge(packets, before - self.inbox.len(), now, watch);
        }
        Ok(())
    }

    /// `false` when no whole packet is left.
    fn judge_one(&mut self, watch: &mut Watch) -> Result<bool, End> {
        let wrong = |violation: Violation| (Closed::Violation, Some(violation));
        let found =
            packet::frame(&self.inbox, PACKET_BYTES_MAX).map_err(|error| wrong(error.into()))?;
        let Some(frame) = found else { return Ok(false) };
        let packet = frame
            .read(&self.inbox)
            .map_err(|error| wrong(error.into()))?;
        self.metrics.received.packet(kind(&packet));
        let sent = &self.metrics.sent;
        match self.session.judge(packet).map_err(wrong)? {
            Step::Publish {
                topic,
                payload,
                retain,
                pkid,
            } => {
                if !self.link.publish(topic, payload, retain) {
                    self.metrics.beacons_outdated.inc();
                }
                if let Some(pkid) = pkid {
                    packet::put_puback(&mut self.outbox, pkid);
                    watch.owed.put(frame.len, monotonic());
                    sent.packet(Kind::PubAck);
                }
            }
            Step::Subscribe(filters) => self.link.subscribe(&filters),
            Step::Unsubscribe(filters) => self.link.unsubscribe(filters),
            Step::NotSubscribed(pkid) => {
                packet::put_unsuback(&mut self.outbox, pkid);
                sent.packet(Kind::Unsubscribe);
            }
            Step::Pong => {
                packet::put_pingresp(&mut self.outbox);
                sent.packet(Kind::Ping);
            }
            Step::Taken => {}
            Step::Leave => return Err((Closed::Client, None)),
        }
        self.inbox.advance(frame.len);
        Ok(true)
    }

    /// Takes from the rates what was read, and pauses reading while in debt or while the router lags.
    fn charge(&mut self, packets: u32, bytes: usize, now: Instant, watch: &mut Watch) {
        let mut pause = None;
        if let Some((messages, volume)) = &mut self.pace.rates {
            messages.take(f64::from(packets), now);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes a read")]
            volume.take(bytes as f64, now);
            pause = messages.debt().max(volume.debt());
            if pause.is_some() {
                self.metrics.throttled.inc();
            }
        }
        if self.link.is_backed_up() {
            self.metrics.router_waits.inc();
            pause = pause.max(Some(ROUTER_PAUSE));
        }
        watch.paused_until = pause.map(|pause| now + pause);
    }

    /// Takes what the router says, and all that it has said meanwhile.
    async fn routed(
        &mut self,
        first: Result<Option<Routed>, RouterGone>,
        writing: bool,
        watch: &mut Watch,
    ) -> Result<(), End> {
        let gone = |_| (Closed::Router, None);
        let mut routed = first.map_err(gone)?;
        loop {
            match routed {
                Some(Routed::Message(message)) => {
                    let (topic, payload) = (&message.topic[..], &message.payload[..]);
                    if self
                        .session
                        .deliver(topic, payload, message.retain, &mut self.outbox)
                    {
                        self.metrics.sent.packet(Kind::Publish);
                    } else {
                        self.metrics.unwanted.inc();
                    }
                }
                Some(Routed::Subscribed) => {
                    self.session.subscribed(&mut self.outbox);
                    self.metrics.sent.packet(Kind::Subscribe);
                }
                Some(Routed::Unsubscribed) => {
                    let before = self.outbox.len();
                    self.session.unsubscribed(&mut self.outbox);
                    if self.outbox.len() > before {
                        self.metrics.sent.packet(Kind::Unsubscribe);
                    }
                }
                Some(Routed::Paused) => self.link.resume().await.map_err(gone)?,
                None => {}
            }
            if self.outbox.len() >= OUT_BYTES_LOW || !self.session.may_deliver() {
                break;
            }
            routed = self.link.try_next().map_err(gone)?;
            if routed.is_none() {
                break;
            }
        }
        if !writing {
            self.note_waiting(true, watch);
        }
        Ok(())
    }
}

const fn kind(packet: &Packet<'_>) -> Kind {
    match packet {
        Packet::Connect(_) => Kind::Connect,
        Packet::Publish(_) => Kind::Publish,
        Packet::PubAck(_) => Kind::PubAck,
        Packet::Subscribe { .. } => Kind::Subscribe,
        Packet::Unsubscribe { .. } => Kind::Unsubscribe,
        Packet::PingReq => Kind::Ping,
        Packet::Disconnect => Kind::Disconnect,
    }
}
