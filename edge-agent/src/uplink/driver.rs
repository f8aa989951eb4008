//! The shell around the machine: buffer on one side, link on the other.
//!
//! One task owns everything here. Its `select!` only receives; what follows from it happens after,
//! without waiting: reads of the buffer run as futures of their own, publishes never wait, and
//! whatever the link refuses stays with the machine. [`super::courier`] says what is to be done,
//! `obeying` does it, `asking` asks the buffer and the disk, `showing` shows what is to be seen of it
//! all, `settings` says what the configuration makes of the machine.

mod asking;
mod obeying;
mod settings;
mod showing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_client::metrics::histogram::Histogram;
use proto::EventTime;
use proto::heartbeat::CameraLink;
use proto::limits::IN_FLIGHT_BATCHES_MAX;
use service::tasks::TaskSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::allowance::{Held, Judgement};
use super::backoff::{Jitter, Millis};
use super::courier::{Courier, READ_BYTES_MAX};
use super::exchange::Input;
use super::frames::Framer;
use super::frontier::Statements;
use super::gate::Shut;
use super::machine::Machine;
use super::meter::{Meter, Page};
use super::mqtt::{Address, Link, LinkEvent};
use super::route::Route;
use super::tls::{Credentials, Stamp};
use super::view::UplinkView;
use crate::buffer::Buffer;
use crate::clock::{Clock, Monotonic};
use crate::config::UplinkConfig;
use crate::ingest::http::DoorCounters;
use crate::status::rates::Flow;
use asking::{Done, Reply};

pub use settings::{pace, rules};

/// How often the certificate files are looked at for changes.
const FILES_EVERY: Duration = Duration::from_secs(30);

/// Longest sleep of the driver: a machine that waits for nothing is asked again all the same.
const SLEEP_MS_MAX: Millis = 3_600_000;

/// What the uplink is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where passages lie.
    pub buffer: Buffer,
    /// Where and as whom to connect, at least one, in this order.
    pub addresses: Vec<Address>,
    /// With which certificates.
    pub credentials: Credentials,
    /// The clock for every wait.
    pub clock: Monotonic,
    /// What time it is.
    pub time: Clock,
    /// Where the uplink shows itself.
    pub view: watch::Sender<UplinkView>,
    /// Seconds from sending to receipt.
    pub receipt_seconds: Histogram,
    /// What went through the door, for the heartbeat.
    pub door: Arc<DoorCounters>,
    /// How fast passages come and go, for the heartbeat.
    pub flow: watch::Receiver<Flow>,
    /// What the link carries, by the owner's rules.
    pub meter: Meter,
}

/// Carries passages up until `stop`, then says goodbye.
pub async fn run(parts: Parts, config: UplinkConfig, seed: u64, tasks: TaskSet) {
    let stop = tasks.token().clone();
    Driver::new(parts, &config, seed, tasks).run(stop).await;
}

/// What woke the driver.
enum Wake {
    Buffer,
    Link(LinkEvent),
    Done(Done),
    Files,
    Timer,
    Stop,
}

struct Driver {
    courier: Courier,
    addresses: Vec<Address>,
    route: Route,
    credentials: Credentials,
    /// What the certificate files looked like when they were last read.
    stamp: Option<Stamp>,
    tasks: TaskSet,
    link: Option<Link>,
    /// What the buffer and the disk were asked: at most one question per message and beacon, and
    /// five more.
    replies: FuturesUnordered<Reply>,
    door: Arc<DoorCounters>,
    flow: watch::Receiver<Flow>,
    meter: Meter,
    /// What the owner's rules said last.
    judged: Judgement,
    trouble: Option<String>,
    last_receipt: Option<(Millis, EventTime)>,
    clock: Monotonic,
    time: Clock,
    view: watch::Sender<UplinkView>,
    receipt_seconds: Histogram,
}

impl Driver {
    fn new(parts: Parts, config: &UplinkConfig, seed: u64, tasks: TaskSet) -> Self {
        let now = parts.buffer.state().borrow().clone();
        let delay_ms = i64::from(config.camera_delay_h) * 3_600_000;
        let machine = Machine::new(pace(config), now.centre, Jitter::new(seed));
        let framer = Framer::new(Statements::new(now.run, delay_ms));
        let mut driver = Self {
            courier: Courier::new(machine, framer, parts.buffer),
            route: Route::new(parts.addresses.len()),
            addresses: parts.addresses,
            credentials: parts.credentials,
            stamp: None,
            tasks,
            link: None,
            replies: FuturesUnordered::new(),
            door: parts.door,
            flow: parts.flow,
            judged: parts.meter.judge(parts.time.read().now),
            meter: parts.meter,
            trouble: None,
            last_receipt: None,
            clock: parts.clock,
            time: parts.time,
            view: parts.view,
            receipt_seconds: parts.receipt_seconds,
        };
        driver.observe();
        driver.feed(Input::Allowed(driver.judged.allowed));
        driver
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut files = tokio::time::interval(FILES_EVERY);
        files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.obey();
            self.judge();
            self.show();
            let now = self.clock.now();
            let wait = self
                .courier
                .machine()
                .timeout(now)
                .map_or(SLEEP_MS_MAX, |at| at.saturating_sub(now));
            let wait = wait.min(self.rules_change_in_ms());
            let silent_in = self.route.silent_at().map(|at| at.saturating_sub(now));
            let wait = wait.min(silent_in.unwrap_or(Millis::MAX));
            let sleep = tokio::time::sleep(Duration::from_millis(wait.min(SLEEP_MS_MAX)));
            let wake = tokio::select! {
                () = stop.cancelled() => Wake::Stop,
                event = next_event(&mut self.link) => Wake::Link(event),
                Some(done) = self.replies.next() => Wake::Done(done),
                () = self.courier.news() => Wake::Buffer,
                _ = files.tick() => Wake::Files,
                () = sleep => Wake::Timer,
            };
            match wake {
                Wake::Stop => break,
                Wake::Buffer => self.observe(),
                Wake::Link(event) => self.hear(event),
                Wake::Done(done) => self.done(done),
                Wake::Files => self.look_at_files(),
                Wake::Timer => self.feed(Input::Tick),
            }
            self.look_at_route();
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        if let Some(page) = self.meter.last_page() {
            self.write(page);
            while let Some(done) = self.replies.next().await {
                if let Done::Metered(_) = done {
                    break;
                }
            }
        }
        tracing::info!("uplink closed; what has no receipt stays in the buffer");
    }

    fn feed(&mut self, input: Input) {
        self.courier.feed(self.clock.now(), input);
    }

    fn observe(&mut self) {
        self.courier.observe(self.clock.now());
    }

    fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Subscribed => {
                let address = self.address();
                tracing::info!(broker = address.host, port = address.port, "link up");
                self.route.stands();
                self.trouble = None;
                self.meter.connection(self.time.read().now);
                self.feed(Input::Subscribed);
            }
            LinkEvent::Acknowledged => {
                let bytes = self.link.as_mut().map_or(0, Link::acknowledged);
                self.feed(Input::Acknowledged { bytes });
            }
            LinkEvent::KeptAlive => self.meter.keep_alive(self.time.read().now),
            LinkEvent::Down(down, bytes) => self.hear_centre(*down, bytes),
            LinkEvent::Unreadable(problem) => {
                tracing::warn!(problem, "a message from the centre cannot be read; ignored");
            }
            LinkEvent::Lost(reason) => self.lose(reason),
        }
    }

    fn hear_centre(&mut self, down: proto::frame::Down, bytes: usize) {
        self.meter.frame(self.time.read().now, bytes);
        self.route.heard();
        match down {
            proto::frame::Down::Receipt(receipt) => self.feed(Input::Receipt(receipt)),
            proto::frame::Down::Refusal(refusal) => {
                tracing::warn!(
                    stream = %refusal.stream,
                    range = ?refusal.range,
                    class = ?refusal.class,
                    reason = refusal.reason.word(),
                    detail = refusal.detail,
                    "the centre refused a message"
                );
                self.feed(Input::Refusal(refusal));
            }
            proto::frame::Down::Beacon(beacon) => self.feed(Input::Beacon(beacon)),
        }
    }

    fn lose(&mut self, reason: String) {
        tracing::warn!(reason, "link down; passages wait in the buffer");
        self.link = None;
        self.route.lost(self.clock.now());
        self.trouble = Some(reason);
        self.feed(Input::Lost);
    }

    /// The broker that is, or will be, tried.
    fn address(&self) -> &Address {
        &self.addresses[self.route.at()]
    }

    /// Leaves a broker over which the centre says nothing. Where it said that its intake is closed it
    /// owes no answer.
    fn look_at_route(&mut self) {
        let now = self.clock.now();
        let machine = self.courier.machine();
        let told_to_wait = machine.why_shut() == Some(Shut::Closed);
        let waits = machine.flight().bytes_sent(None) > 0 && !told_to_wait;
        self.route.waits(now, waits);
        if self.route.silent_at().is_some_and(|at| at <= now) {
            self.lose("the centre says nothing over this broker".to_owned());
        }
    }

    /// Replaced certificates are taken over by connecting anew.
    fn look_at_files(&mut self) {
        if self.link.is_some() && self.stamp.as_ref() != Some(&self.credentials.stamp()) {
            tracing::info!("certificate files changed; connecting anew");
            self.lose("certificate files changed".to_owned());
        }
    }

    /// Applies the owner's rules, and has the count of the day written down when it is time.
    fn judge(&mut self) {
        let judged = self.meter.judge(self.time.read().now);
        if judged.allowed != self.judged.allowed {
            let why = judged
                .why
                .map_or("nothing holds passages back", Held::words);
            tracing::info!(allowed = ?judged.allowed, why, "the owner's rules for the link");
            self.feed(Input::Allowed(judged.allowed));
            self.obey();
        }
        self.judged = judged;
        if let Some(page) = self.meter.page(self.clock.now()) {
            self.write(page);
        }
    }

    fn rules_change_in_ms(&self) -> Millis {
        let now_ms = self.time.read().now.as_millis();
        let until = self.judged.until.map(|until| until.as_millis() - now_ms);
        until.map_or(Millis::MAX, |ms| Millis::try_from(ms).unwrap_or(0))
    }

    fn write(&self, page: Page) {
        self.ask(async move {
            let written = tokio::task::spawn_blocking(move || page.write()).await;
            Done::Metered(written.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))))
        });
    }

    fn camera(&self) -> CameraLink {
        match self.door.last_post_ms.load(Ordering::Relaxed) {
            0 => CameraLink::Unknown,
            ms => CameraLink::LastPostAt(EventTime::from_millis(ms)),
        }
    }
}

/// The next event of the link; never, without one.
async fn next_event(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

const _: () =
    assert!(READ_BYTES_MAX * IN_FLIGHT_BATCHES_MAX <= 4 * proto::limits::IN_FLIGHT_BYTES_MAX);
