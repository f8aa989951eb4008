//! The shell around the machine: buffer on one side, link on the other.
//!
//! One task owns everything here. Its `select!` only receives; what follows from it happens after,
//! without waiting: reads of the buffer run as futures of their own, publishes never wait, and
//! whatever the link refuses stays with the machine. `asking` holds the questions to the buffer and
//! the disk, `showing` what is shown of it all.

mod asking;
mod showing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_client::metrics::histogram::Histogram;
use proto::heartbeat::CameraLink;
use proto::limits::IN_FLIGHT_BATCHES_MAX;
use proto::receipt::Correction;
use proto::{EventTime, StreamId};
use service::tasks::TaskSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::allowance::{Held, Judgement, Rules};
use super::backoff::{Backoff, Jitter, Millis};
use super::exchange::{Command, Input, Pace};
use super::flight::MessageId;
use super::frames::Framer;
use super::frontier::Statements;
use super::gate::Shut;
use super::inbox::Inbox;
use super::machine::Machine;
use super::meter::{Meter, Page};
use super::mqtt::{Address, Link, LinkEvent};
use super::route::Route;
use super::tls::{Credentials, Stamp};
use super::view::UplinkView;
use crate::buffer::{Buffer, BufferState};
use crate::clock::{Clock, Monotonic};
use crate::config::UplinkConfig;
use crate::ingest::http::DoorCounters;
use crate::status::rates::Flow;
use asking::{Done, Reply};

/// Stored bytes read for one message: a full window of such frames stays near the bytes that may
/// be on their way.
pub const READ_BYTES_MAX: usize = 20 * 1024;

/// The least wait between two attempts to connect, and between two probes.
const FIRST_WAIT_MS: Millis = 1_000;

/// The longest wait between two probes of a closed intake, and between two sendings of a message.
const LONGEST_WAIT_MS: Millis = 300_000;

/// Within which a reopened intake is entered.
const OPEN_JITTER_MS: Millis = 10_000;

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

/// The pace that the configuration asks for.
#[must_use]
pub fn pace(config: &UplinkConfig) -> Pace {
    let longest = |base: Millis| LONGEST_WAIT_MS.max(base);
    let resend_ms = config.resend_min_s * 1_000;
    Pace {
        batch_passages: u64::from(config.batch_passages),
        event_wait_ms: config.event_wait_ms,
        heartbeat_ms: config.heartbeat_s * 1_000,
        reconnect: Backoff {
            base_ms: FIRST_WAIT_MS,
            cap_ms: config.reconnect_max_s * 1_000,
        },
        probe: Backoff {
            base_ms: FIRST_WAIT_MS,
            cap_ms: LONGEST_WAIT_MS,
        },
        resend: Backoff {
            base_ms: resend_ms,
            cap_ms: longest(resend_ms),
        },
        open_jitter_ms: OPEN_JITTER_MS,
        summary_after_ms: config.summary_after_s * 1_000,
        backlog_share_percent: u64::from(config.backlog_share),
        rate_bytes_per_s_max: config.rate_kbit_s_max.map(|kbit| u64::from(kbit) * 125),
    }
}

/// The owner's rules for the link.
#[must_use]
pub fn rules(config: &UplinkConfig) -> Rules {
    Rules {
        backlog_hours: config.backlog_hours.clone(),
        offset: config.utc_offset,
        daily_bytes_max: config.daily_mb_max.map(|mb| u64::from(mb) * 1_000_000),
        reserve_percent: u64::from(config.daily_reserve),
    }
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
    machine: Machine,
    framer: Framer,
    buffer: Buffer,
    state: watch::Receiver<Arc<BufferState>>,
    addresses: Vec<Address>,
    route: Route,
    credentials: Credentials,
    /// What the certificate files looked like when they were last read.
    stamp: Option<Stamp>,
    tasks: TaskSet,
    link: Option<Link>,
    /// Frames of messages that wait for room on the link: at most one per message.
    frames: BTreeMap<MessageId, Vec<u8>>,
    /// What the buffer and the disk were asked: at most one question per message and beacon, and
    /// five more.
    replies: FuturesUnordered<Reply>,
    inbox: Inbox,
    telling: bool,
    /// Summaries that are to be read as soon as the buffer knows every receipt.
    summary_wanted: Option<(StreamId, usize)>,
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
        let mut state = parts.buffer.state();
        let now = state.borrow_and_update().clone();
        let delay_ms = i64::from(config.camera_delay_h) * 3_600_000;
        let mut driver = Self {
            machine: Machine::new(pace(config), now.centre, Jitter::new(seed)),
            framer: Framer::new(Statements::new(now.run, delay_ms)),
            buffer: parts.buffer,
            state,
            route: Route::new(parts.addresses.len()),
            addresses: parts.addresses,
            credentials: parts.credentials,
            stamp: None,
            tasks,
            link: None,
            frames: BTreeMap::new(),
            replies: FuturesUnordered::new(),
            inbox: Inbox::default(),
            telling: false,
            summary_wanted: None,
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
        driver.feed(Input::Buffer(now));
        driver.feed(Input::Allowed(driver.judged.allowed));
        driver
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut files = tokio::time::interval(FILES_EVERY);
        files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.obey();
            self.judge();
            self.buffer.offer_ahead(self.machine.flows());
            self.show();
            let now = self.clock.now();
            let wait = self
                .machine
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
                Ok(()) = self.state.changed() => Wake::Buffer,
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
        self.machine.handle(self.clock.now(), input);
    }

    fn observe(&mut self) {
        let state = self.state.borrow_and_update().clone();
        self.feed(Input::Buffer(state));
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
        let told_to_wait = self.machine.why_shut() == Some(Shut::Closed);
        let waits = self.machine.flight().bytes_sent(None) > 0 && !told_to_wait;
        self.route.waits(now, waits);
        if self.route.silent_at().is_some_and(|at| at <= now) {
            self.lose("the centre says nothing over this broker".to_owned());
        }
    }

    /// Does what the machine wants, in order.
    fn obey(&mut self) {
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Connect => self.read_credentials(),
                Command::Read { id, stream, range } => self.read(id, stream, range),
                Command::Publish(id) => self.publish(id),
                Command::Forget(id) => drop(self.frames.remove(&id)),
                Command::Fold {
                    backlog,
                    older_than_ms,
                    age_max_ms,
                } => self.fold(backlog, older_than_ms, age_max_ms),
                Command::Summary(stream, entries_max) => self.read_summary(stream, entries_max),
                Command::Losses(stream, losses) => {
                    let (state, at) = (self.state.borrow().clone(), self.time.read());
                    if let Some(frame) = self.framer.losses(&state, at, stream, losses) {
                        self.say(frame, "losses");
                    }
                }
                Command::Heartbeat => {
                    let drain = self.flow.borrow().drain_per_min();
                    let (state, at) = (self.state.borrow().clone(), self.time.read());
                    let frame = self.framer.heartbeat(&state, at, self.camera(), drain);
                    self.say(frame, "a heartbeat");
                }
                Command::Receipt(centre, streams) => {
                    self.inbox.push(centre, streams);
                    self.tell();
                }
                Command::Refused {
                    stream,
                    range,
                    reason,
                    build,
                } => self.refuse(stream, range, reason, build),
                Command::SummaryRefused {
                    stream,
                    seqs,
                    counted,
                    reason,
                } => self.refuse_summary(stream, seqs, counted, reason),
                Command::OfferAgain(build) => self.offer_again(build),
                Command::CentreTime(at) => drop(self.take_time(at)),
                Command::Corrected(correction) => self.correct(correction),
            }
        }
    }

    /// Replaced certificates are taken over by connecting anew.
    fn look_at_files(&mut self) {
        if self.link.is_some() && self.stamp.as_ref() != Some(&self.credentials.stamp()) {
            tracing::info!("certificate files changed; connecting anew");
            self.lose("certificate files changed".to_owned());
        }
    }

    fn publish(&mut self, id: MessageId) {
        let Some(frame) = self.frames.remove(&id) else {
            return;
        };
        if !self.hand(frame.clone()) {
            self.frames.insert(id, frame);
            self.feed(Input::NotPublished { id });
        }
    }

    /// Hands a frame to the link; false when there is no room or no link.
    fn hand(&mut self, frame: Vec<u8>) -> bool {
        let bytes = frame.len();
        let handed = self.link.as_mut().is_some_and(|link| link.publish(frame));
        if handed {
            self.meter.frame(self.time.read().now, bytes);
        }
        handed
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

    /// Publishes something that is said again anyway.
    fn say(&mut self, frame: Vec<u8>, what: &'static str) {
        let bytes = frame.len();
        if self.hand(frame) {
            self.feed(Input::Said { bytes });
        } else {
            tracing::debug!(what, "not sent for want of room; it is said again");
        }
    }

    /// It is no earlier than the centre said, by which certificates are judged as well, also after a
    /// restart. Returns whether that is believed.
    fn take_time(&mut self, at: EventTime) -> bool {
        let not_after = self.view.borrow().certificate_not_after;
        let is_believed =
            not_after.is_some_and(|not_after| self.credentials.raise_floor(at, not_after));
        if is_believed {
            self.time.not_before(at);
            self.buffer.centre_time(at);
        }
        is_believed
    }

    /// Takes over what the centre knows better.
    fn correct(&mut self, correction: Option<Correction>) {
        let Some(Correction { at, run, counter }) = correction else {
            return self.time.corrected(None);
        };
        if self.take_time(at) {
            self.time.corrected(Some(at));
        }
        if let Some(run) = self.framer.exceed(run, counter) {
            tracing::warn!(
                run,
                "the centre knows a run of this unit by a higher number; this one goes above it"
            );
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
