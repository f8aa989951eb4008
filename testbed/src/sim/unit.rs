//! ● A unit: its camera, its disk, and the agent's own admission, buffer and uplink, run step by step.
//!
//! What stands here in the place of the agent's shells (`ingest/http`, `uplink/driver`, the buffer's
//! thread) is told the virtual time and decides nothing: it carries out what the machine wants, in
//! order, as the driver does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge_agent::buffer::{
    Admitted, AppendError, Appended, Buffer, BufferSettings, BufferState, Folded, HandedOver,
    Moment, Owner, PendingSummary, ReadError, ReadLimit, StoreStopped, StoredRun,
};
use edge_agent::clock::{Known, Reading};
use edge_agent::ingest::admit::{Judge, Rules};
use edge_agent::ingest::plates::PlatePolicy;
use edge_agent::uplink::backoff::{Backoff, Jitter};
use edge_agent::uplink::exchange::{Command, Input, Pace};
use edge_agent::uplink::flight::MessageId;
use edge_agent::uplink::frames::Framer;
use edge_agent::uplink::frontier::Statements;
use edge_agent::uplink::inbox::Inbox;
use edge_agent::uplink::machine::Machine;
use proto::frame::{Down, UpFrame};
use proto::heartbeat::CameraLink;
use proto::receipt::{Centre, Correction, StreamReceipt};
use proto::topic::{Shard, beacon, down, up};
use proto::{DeviceId, EventTime, SeqRange, StreamId};
use service::clock::monotonic;
use tokio::sync::watch;

use super::camera::Camera;
use super::disk::{Disk, Fate};
use super::net::{Client, ConnectionId, ToBroker, ToClient};
use super::oracle::{CAMERA_DELAY_MS, show};
use super::queue::{Millis, wall_ms};
use super::scenario::{Bug, UnitSetup};
use super::stage::{Event, Stage, UnitEvent};

/// Stored bytes read for one message, as in the driver.
const READ_BYTES_MAX: usize = 24 * 1024;

/// Ahead of the agent's clock, as by default.
const FUTURE_MS_MAX: i64 = 600_000;

/// What the buffer was asked, and what came of it.
enum Done {
    Posted {
        times: Vec<i64>,
        appended: Result<Appended, AppendError>,
    },
    Read {
        id: MessageId,
        stream: StreamId,
        range: SeqRange,
        run: Box<Result<Option<StoredRun>, ReadError>>,
    },
    Summary(StreamId, Result<Vec<PendingSummary>, StoreStopped>),
    Folded(Result<Folded, StoreStopped>),
    Receipt,
    Refused,
    SummaryRefused,
    OfferedAgain(Arc<str>, Result<u64, StoreStopped>),
}

type Reply = Pin<Box<dyn Future<Output = Done>>>;

/// A connection to the broker.
#[derive(Debug)]
struct Link {
    id: ConnectionId,
    pkid: u16,
    /// The bytes of each unacknowledged publish and, for the planted bug, what it holds.
    unacknowledged: BTreeMap<u16, (usize, Option<(StreamId, SeqRange)>)>,
}

/// One run of the agent.
struct Running {
    began: Millis,
    buffer: Buffer,
    owner: Owner,
    state: watch::Receiver<Arc<BufferState>>,
    machine: Machine,
    framer: Framer,
    known: Known,
    inbox: Inbox,
    telling: bool,
    /// A summary that is read when the buffer has heard all receipts.
    summary_wanted: Option<(StreamId, usize)>,
    frames: BTreeMap<MessageId, Vec<u8>>,
    replies: Vec<Reply>,
    link: Option<Link>,
    /// When the buffer's thread and the machine have their next turn.
    buffer_at: Millis,
    uplink_at: Millis,
}

/// See the module.
pub(super) struct Unit {
    pub(super) place: usize,
    pub(super) name: DeviceId,
    setup: UnitSetup,
    batch_passages: u64,
    bug: Option<Bug>,
    disk: Disk,
    pub(super) camera: Camera,
    pub(super) life: u32,
    running: Option<Running>,
    epoch: Instant,
    last_losses: Vec<(StreamId, proto::loss::Loss)>,
}

impl Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit")
            .field("name", &self.name)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Unit {
    pub(super) fn new(stage: &Stage, place: usize) -> Self {
        let setup = stage.scenario.units[place];
        Self {
            place,
            name: name(place),
            setup,
            batch_passages: stage.scenario.batch_passages,
            bug: stage.scenario.bug,
            disk: Disk::new(stage.scenario.bug == Some(Bug::SkipFlush)),
            camera: Camera::new(name(place), setup.ids),
            life: 0,
            running: None,
            epoch: monotonic(),
            last_losses: Vec::new(),
        }
    }

    /// By the unit's own clock.
    fn wall_ms(&self, now: Millis) -> i64 {
        wall_ms(now) + self.setup.skew_ms
    }

    /// What time it is, as far as a running unit knows.
    fn reading(&self, now: Millis) -> Reading {
        let wall = EventTime::from_millis(self.wall_ms(now));
        self.running
            .as_ref()
            .map_or(Reading::right(wall), |running| {
                running.known.reading(wall, now - running.began)
            })
    }

    fn moment(&self, now: Millis) -> Moment {
        Moment {
            monotonic: self.epoch + Duration::from_millis(now),
            wall_ms: self.wall_ms(now),
        }
    }

    fn pace(&self) -> Pace {
        let wait = |base_ms, cap_ms| Backoff { base_ms, cap_ms };
        Pace {
            batch_passages: self.batch_passages,
            event_wait_ms: 250,
            heartbeat_ms: 30_000,
            reconnect: wait(1_000, 60_000),
            probe: wait(1_000, 300_000),
            resend: wait(30_000, 300_000),
            open_jitter_ms: 10_000,
            backlog_share_percent: 30,
            summary_after_ms: self.setup.summary_after_ms,
            rate_bytes_per_s_max: self.setup.rate_bytes_per_s_max,
        }
    }

    pub(super) fn hear(&mut self, stage: &mut Stage, event: UnitEvent) {
        match event {
            UnitEvent::Start => self.start(stage),
            UnitEvent::Post => self.post(stage),
            UnitEvent::Buffer => self.step(stage),
            UnitEvent::Uplink => self.feed(stage, Input::Tick),
            UnitEvent::Dial => self.dial(stage),
        }
    }

    fn later(&self, stage: &mut Stage, delay: Millis, event: UnitEvent) {
        let event = Event::Unit(self.place, self.life, event);
        stage.queue.after(delay, event);
    }

    fn start(&mut self, stage: &mut Stage) {
        self.disk.cut();
        let now = stage.now();
        let settings = BufferSettings {
            directory: "simulated".into(),
            quota_bytes: self.setup.quota_bytes,
            free_floor_bytes: 0,
            policy: self.setup.policy,
            linger: Duration::from_millis(50),
            open_timeout: Duration::from_secs(60),
        };
        let handed = HandedOver {
            medium: Box::new(self.disk.clone()),
            stream: StreamId::from_bytes(stage.dice.name()),
            offered_ahead_max: self.setup.offered_ahead_max,
        };
        let (buffer, owner) = match Buffer::over(&settings, handed, self.moment(now)) {
            Ok(opened) => opened,
            Err(error) => {
                return stage
                    .oracle
                    .fail(format!("{} does not start: {error}", self.name));
            }
        };
        let mut receiver = buffer.state();
        let state = receiver.borrow_and_update().clone();
        stage.say(format_args!(
            "{}: life {}, run {}, {} unsent",
            self.name, self.life, state.run, state.unsent.passages
        ));
        self.running = Some(Running {
            began: now,
            buffer,
            owner,
            state: receiver,
            machine: Machine::new(self.pace(), state.centre, Jitter::new(stage.dice.number())),
            framer: Framer::new(Statements::new(state.run, CAMERA_DELAY_MS)),
            known: Known::new(EventTime::from_millis(0)),
            inbox: Inbox::default(),
            telling: false,
            summary_wanted: None,
            frames: BTreeMap::new(),
            replies: Vec::new(),
            link: None,
            buffer_at: Millis::MAX,
            uplink_at: Millis::MAX,
        });
        self.look(stage, &state);
        self.feed(stage, Input::Buffer(state));
        self.feed(stage, Input::Tick);
        self.ask_turn(stage);
        self.later(stage, 100, UnitEvent::Post);
    }

    /// The power goes.
    pub(super) fn crash(&mut self, stage: &mut Stage) {
        if self.running.take().is_none() {
            return;
        }
        self.disk.cut();
        let (place, life) = (self.place, self.life);
        for id in stage.net.of(|client| client == Client::Unit(place, life)) {
            // The broker notices at once, or by its keep-alive.
            stage.cut(id, 1);
        }
        self.life += 1;
        self.camera.unanswered();
        stage.say(format_args!("{}: power cut", self.name));
        let off = stage.dice.pick(&[100, 3_000, 30_000]);
        self.later(stage, off, UnitEvent::Start);
    }

    /// The power will go during the next commit.
    pub(super) fn crash_in_commit(&mut self, durable: bool) {
        self.disk.foretell(if durable {
            Fate::CutAfter
        } else {
            Fate::CutBefore
        });
    }

    fn post(&mut self, stage: &mut Stage) {
        let wall = self.wall_ms(stage.now());
        let sees = !stage.weather.calm;
        let poison_one_in = stage.scenario.poison_one_in;
        let post = self.camera.next(
            &mut stage.dice,
            wall,
            self.setup.post_passages_max,
            sees,
            poison_one_in,
        );
        let wait = stage
            .dice
            .between(self.setup.post_every_ms / 4, self.setup.post_every_ms);
        self.later(stage, wait, UnitEvent::Post);
        let Some(post) = post else { return };
        let rules = Rules {
            device: self.name.clone(),
            plates: PlatePolicy::Kept,
            future_ms_max: FUTURE_MS_MAX,
        };
        let present_ms = self.reading(stage.now()).present_ms(FUTURE_MS_MAX);
        let mut judge = Judge::new(&rules, present_ms);
        let admitted: Result<Vec<Admitted>, _> = post
            .items
            .iter()
            .enumerate()
            .map(|(index, item)| judge.admit(index, item))
            .collect();
        let passages = match admitted {
            Ok(passages) => passages,
            Err(error) => {
                return stage
                    .oracle
                    .fail(format!("the door refused a good passage: {error}"));
            }
        };
        stage.say(format_args!("{}: {} posted", self.name, passages.len()));
        self.ask(stage, |buffer| async move {
            let times = post.times;
            let appended = buffer.append(passages).await;
            Done::Posted { times, appended }
        });
    }

    /// Asks the buffer; the answer comes with one of its next turns.
    fn ask<F>(&mut self, stage: &mut Stage, question: impl FnOnce(Buffer) -> F)
    where
        F: Future<Output = Done> + 'static,
    {
        if let Some(running) = &mut self.running {
            let mut reply: Reply = Box::pin(question(running.buffer.clone()));
            // The first poll puts the question into the queue.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => running.replies.push(reply),
                Poll::Ready(done) => running.replies.push(Box::pin(async move { done })),
            }
        }
        self.ask_turn(stage);
    }

    fn ask_turn(&mut self, stage: &mut Stage) {
        let most = stage.weather.disk_ms_max;
        let at = stage.now() + stage.dice.between(0, most);
        self.turn_at(stage, at);
    }

    fn turn_at(&mut self, stage: &mut Stage, at: Millis) {
        if let Some(running) = &mut self.running
            && at < running.buffer_at
        {
            running.buffer_at = at;
            let event = Event::Unit(self.place, self.life, UnitEvent::Buffer);
            stage.queue.at(at, event);
        }
    }

    /// The turn of the buffer's thread.
    fn step(&mut self, stage: &mut Stage) {
        let now = stage.now();
        let moment = self.moment(now);
        let Some(running) = self.running.as_mut().filter(|r| r.buffer_at <= now) else {
            return;
        };
        running.buffer_at = Millis::MAX;
        let again = running.owner.step(moment);
        for (stream, first, batch) in self.disk.take_news() {
            let oracle = &mut stage.oracle;
            oracle.accepted(self.place, moment.wall_ms, stream, first, &batch);
        }
        if self.disk.is_cut() {
            return self.crash(stage);
        }
        let mut waiting = Vec::new();
        let mut done = Vec::new();
        for mut reply in std::mem::take(&mut running.replies) {
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => done.push(answer),
                Poll::Pending => waiting.push(reply),
            }
        }
        running.replies = waiting;
        let changed = running.state.has_changed().unwrap_or(false);
        let state = running.state.borrow_and_update().clone();
        // The driver may hear of the new state before or after the answers.
        let state_first = stage.dice.percent(50);
        if changed {
            self.look(stage, &state);
        }
        if changed && state_first {
            self.feed(stage, Input::Buffer(state.clone()));
        }
        done.into_iter().for_each(|done| self.done(stage, done));
        if changed && !state_first {
            self.feed(stage, Input::Buffer(state));
        }
        let until = again.saturating_duration_since(self.epoch);
        let at = u64::try_from(until.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        self.turn_at(stage, at.max(now + 1));
    }

    /// Shows the judge what lies here.
    fn look(&mut self, stage: &mut Stage, state: &BufferState) {
        stage.oracle.declared(&state.losses);
        if self.last_losses != state.losses {
            self.last_losses.clone_from(&state.losses);
            for (stream, loss) in &state.losses {
                stage.say(format_args!(
                    "{}: lost of {stream}: {} {:?} {:?}",
                    self.name, loss.range, loss.scope, loss.reason
                ));
            }
        }
        stage
            .oracle
            .identity(self.place, &self.disk.held(), &self.last_losses);
    }

    fn done(&mut self, stage: &mut Stage, done: Done) {
        match done {
            Done::Posted { times, appended } => match appended {
                Ok(_) => {
                    stage.oracle.answered(self.place, &times);
                    self.camera.answered();
                }
                Err(error) => {
                    stage.say(format_args!("{}: post refused: {error}", self.name));
                    self.camera.unanswered();
                }
            },
            Done::Read {
                id,
                stream,
                range,
                run,
            } => self.loaded(stage, id, stream, range, *run),
            Done::Summary(stream, entries) => self.summary(stage, stream, entries),
            Done::Folded(folded) => {
                // What was folded is not to be read: the machine hears of that first.
                let state = self.running.as_mut().map(|running| {
                    let state = running.state.borrow_and_update();
                    Arc::clone(&state)
                });
                let observed = state.map(Input::Buffer);
                observed
                    .into_iter()
                    .for_each(|observed| self.feed(stage, observed));
                self.feed(stage, Input::Folded(folded.unwrap_or_default()));
            }
            Done::Receipt => {
                if let Some(running) = &mut self.running {
                    running.telling = false;
                }
                self.tell(stage);
            }
            Done::Refused => {}
            Done::SummaryRefused => self.feed(stage, Input::SummaryGivenUp),
            Done::OfferedAgain(build, passages) => {
                if passages.is_ok_and(|passages| passages > 0) {
                    self.offer_again(stage, build);
                }
            }
        }
    }

    /// Tells the machine, and does what it wants.
    fn feed(&mut self, stage: &mut Stage, input: Input) {
        let Some(running) = &mut self.running else {
            return;
        };
        let now = stage.now() - running.began;
        running.machine.handle(now, input);
        while let Some(command) = self.running.as_mut().and_then(|r| r.machine.poll()) {
            self.obey(stage, command);
        }
        if let Some(running) = &mut self.running
            && let Some(timeout) = running.machine.timeout(now)
        {
            let at = (running.began + timeout).max(stage.now());
            let is_pending = running.uplink_at <= at && running.uplink_at > stage.now();
            if !is_pending {
                running.uplink_at = at;
                let event = Event::Unit(self.place, self.life, UnitEvent::Uplink);
                stage.queue.at(at.max(stage.now() + 1), event);
            }
        }
    }

    fn obey(&mut self, stage: &mut Stage, command: Command) {
        let at = self.reading(stage.now());
        match command {
            Command::Connect => {
                let takes = stage.dice.between(5, 3_000);
                self.later(stage, takes, UnitEvent::Dial);
            }
            Command::Read { id, stream, range } => {
                let passages = usize::try_from(range.count()).unwrap_or(usize::MAX);
                let limit = ReadLimit {
                    passages,
                    bytes: READ_BYTES_MAX,
                };
                self.ask(stage, move |buffer| async move {
                    let run = Box::new(buffer.read(stream, range.first(), limit).await);
                    Done::Read {
                        id,
                        stream,
                        range,
                        run,
                    }
                });
            }
            Command::Publish(id) => self.publish(stage, id),
            Command::Forget(id) => {
                if let Some(running) = &mut self.running {
                    running.frames.remove(&id);
                }
            }
            Command::Summary(stream, entries_max) => self.read_summary(stage, stream, entries_max),
            Command::Fold {
                backlog,
                older_than_ms,
                age_max_ms,
            } => {
                let scope = backlog.scope(at.now, older_than_ms, age_max_ms);
                self.ask(stage, move |buffer| async move {
                    Done::Folded(buffer.fold(backlog.stream, scope).await)
                });
            }
            Command::Losses(stream, losses) => {
                if let Some(running) = &mut self.running {
                    let state = running.state.borrow().clone();
                    let frame = running.framer.losses(&state, at, stream, losses);
                    frame.into_iter().for_each(|frame| self.speak(stage, frame));
                }
            }
            Command::Heartbeat => {
                if let Some(running) = &mut self.running {
                    let state = running.state.borrow().clone();
                    let frame = running
                        .framer
                        .heartbeat(&state, at, CameraLink::Unknown, None);
                    self.speak(stage, frame);
                }
            }
            Command::Receipt(centre, streams) => {
                if let Some(running) = &mut self.running {
                    running.inbox.push(centre, streams);
                }
                self.tell(stage);
            }
            Command::Refused {
                stream,
                range,
                reason,
                build,
            } => self.ask(stage, move |buffer| async move {
                buffer.refused(stream, range, reason, build).await.ok();
                Done::Refused
            }),
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                ..
            } => self.ask(stage, move |buffer| async move {
                buffer.summary_refused(stream, seqs, counted).await.ok();
                Done::SummaryRefused
            }),
            Command::OfferAgain(build) => self.offer_again(stage, build),
            Command::CentreTime(at) => self.take_time(stage, at),
            Command::Corrected(correction) => self.correct(stage, correction),
        }
    }

    fn take_time(&mut self, stage: &mut Stage, at: EventTime) {
        if let Some(running) = &mut self.running {
            running.known.not_before(at, stage.now() - running.began);
            running.buffer.centre_time(at);
        }
        self.ask_turn(stage);
    }

    /// Takes over what the centre knows better.
    fn correct(&mut self, stage: &mut Stage, correction: Option<Correction>) {
        if let Some(running) = &mut self.running {
            let elapsed = stage.now() - running.began;
            running
                .known
                .corrected(correction.map(|told| told.at), elapsed);
            if let Some(told) = correction {
                running.framer.exceed(told.run, told.counter);
            }
        }
        if let Some(told) = correction {
            self.take_time(stage, told.at);
        }
    }

    /// After all receipts: what they free is not to be said again.
    fn read_summary(&mut self, stage: &mut Stage, stream: StreamId, entries_max: usize) {
        if let Some(running) = self.running.as_mut().filter(|running| running.telling) {
            running.summary_wanted = Some((stream, entries_max));
            return;
        }
        self.ask(stage, move |buffer| async move {
            Done::Summary(stream, buffer.pending_summaries(stream, entries_max).await)
        });
    }

    fn loaded(
        &mut self,
        stage: &mut Stage,
        id: MessageId,
        stream: StreamId,
        range: SeqRange,
        run: Result<Option<StoredRun>, ReadError>,
    ) {
        let at = self.reading(stage.now());
        let run = run
            .unwrap_or_default()
            .filter(|run| run.first == range.first());
        let read = run.and_then(|run| {
            let read = SeqRange::from_count(run.first, run.batch.len() as u64).ok()?;
            (read.last() <= range.last()).then_some((read, run.batch))
        });
        let (Some((read, batch)), Some(running)) = (read, &mut self.running) else {
            return self.feed(stage, Input::Absent { id });
        };
        let state = running.state.borrow().clone();
        let first = read.first();
        let frame = running.framer.passages(&state, at, stream, first, batch);
        let bytes = frame.len();
        running.frames.insert(id, frame);
        let range = read;
        self.feed(stage, Input::Loaded { id, range, bytes });
    }

    fn summary(
        &mut self,
        stage: &mut Stage,
        stream: StreamId,
        entries: Result<Vec<PendingSummary>, StoreStopped>,
    ) {
        let at = self.reading(stage.now());
        let entries = entries.unwrap_or_default();
        let entries = entries.into_iter().map(|pending| pending.entry).collect();
        let Some(running) = &mut self.running else {
            return;
        };
        let state = running.state.borrow().clone();
        let Some(framed) = running.framer.summary(&state, at, stream, entries) else {
            return self.feed(stage, Input::SummaryAbsent(stream));
        };
        let bytes = framed.frame.len();
        let sent = self.send(stage, framed.frame);
        if sent {
            self.feed(stage, Input::Said { bytes });
        }
        let (claimed, seqs, entries) = (framed.claimed, framed.seqs, framed.entries);
        let input = if sent {
            Input::SummarySent {
                stream,
                claimed,
                seqs,
                entries,
            }
        } else {
            Input::SummaryNotSent
        };
        self.feed(stage, input);
    }

    fn publish(&mut self, stage: &mut Stage, id: MessageId) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(frame) = running.frames.remove(&id) else {
            return;
        };
        if !self.send(stage, frame.clone()) {
            if let Some(running) = &mut self.running {
                running.frames.insert(id, frame);
            }
            self.feed(stage, Input::NotPublished { id });
        }
    }

    /// Hands a frame to the link, if it has room.
    fn send(&mut self, stage: &mut Stage, frame: Vec<u8>) -> bool {
        let most = self.setup.link_frames_max;
        let Some(link) = self
            .running
            .as_mut()
            .and_then(|running| running.link.as_mut())
        else {
            return false;
        };
        if link.unacknowledged.len() >= most {
            return false;
        }
        link.pkid = link.pkid % u16::MAX + 1;
        let opened = UpFrame::open(&frame).ok();
        let holds = opened.and_then(|open| Some((open.header.stream, open.header.range()?)));
        // The kind of a frame is its second byte.
        let kind = frame.get(1).copied().unwrap_or_default();
        link.unacknowledged.insert(link.pkid, (frame.len(), holds));
        let packet = ToBroker::Publish {
            topic: up(&self.name),
            payload: Bytes::from(frame),
            retain: false,
            pkid: Some(link.pkid),
        };
        let id = link.id;
        if let Some((stream, range)) = holds {
            stage.say(format_args!(
                "{}: sends kind {kind} {stream} {range}",
                self.name
            ));
        }
        stage.send_up(id, packet);
        true
    }

    /// Publishes something that is said again anyway.
    fn speak(&mut self, stage: &mut Stage, frame: Vec<u8>) {
        let bytes = frame.len();
        if self.send(stage, frame) {
            self.feed(stage, Input::Said { bytes });
        }
    }

    fn offer_again(&mut self, stage: &mut Stage, build: Arc<str>) {
        self.ask(stage, move |buffer| async move {
            let passages = buffer.offer_again(Arc::clone(&build)).await;
            Done::OfferedAgain(build, passages)
        });
    }

    /// Tells the buffer what the centre said, one word at a time.
    fn tell(&mut self, stage: &mut Stage) {
        let Some(running) = self.running.as_mut().filter(|running| !running.telling) else {
            return;
        };
        let Some((centre, streams)) = running.inbox.pop() else {
            let wanted = running.summary_wanted.take();
            return wanted.into_iter().for_each(|(stream, entries_max)| {
                self.read_summary(stage, stream, entries_max);
            });
        };
        running.telling = true;
        self.ask(stage, move |buffer| async move {
            buffer.receipt(centre, streams).await.ok();
            Done::Receipt
        });
    }

    fn dial(&mut self, stage: &mut Stage) {
        if self.running.is_none() {
            return;
        }
        let reachable = stage.weather.broker_up && !stage.weather.cut_off[self.place];
        if !reachable {
            return self.feed(stage, Input::Lost);
        }
        let id = stage.connect(Client::Unit(self.place, self.life));
        if let Some(running) = &mut self.running {
            running.link = Some(Link {
                id,
                pkid: 0,
                unacknowledged: BTreeMap::new(),
            });
        }
        let client_id = self.name.as_str().to_owned();
        stage.send_up(id, ToBroker::Connect { client_id });
    }

    /// Something came over the connection.
    pub(super) fn receive(&mut self, stage: &mut Stage, id: ConnectionId, packet: ToClient) {
        let link = self
            .running
            .as_mut()
            .and_then(|running| running.link.as_mut());
        let Some(link) = link.filter(|link| link.id == id) else {
            return;
        };
        match packet {
            ToClient::Connected => {
                let filters = vec![down(&self.name), beacon(Shard::of(&self.name))];
                stage.send_up(id, ToBroker::Subscribe(filters));
            }
            ToClient::Subscribed => self.feed(stage, Input::Subscribed),
            ToClient::PubAck(pkid) => {
                let (bytes, held) = link.unacknowledged.remove(&pkid).unwrap_or_default();
                if let Some((stream, range)) =
                    held.filter(|_| self.bug == Some(Bug::DeleteOnPuback))
                {
                    self.believe_puback(stage, stream, range);
                }
                self.feed(stage, Input::Acknowledged { bytes });
            }
            ToClient::Publish { payload, pkid, .. } => {
                pkid.into_iter()
                    .for_each(|pkid| stage.send_up(id, ToBroker::PubAck(pkid)));
                match Down::decode(&payload) {
                    Ok(Down::Receipt(receipt)) => {
                        stage.oracle.received(self.place, &receipt.streams);
                        for of in &receipt.streams {
                            stage.say(format_args!(
                                "{}: receipt of {}: counted {}, stored {}, lost {}",
                                self.name,
                                of.stream,
                                show(&of.counted),
                                show(&of.stored),
                                show(&of.lost)
                            ));
                        }
                        self.feed(stage, Input::Receipt(receipt));
                    }
                    Ok(Down::Refusal(refusal)) => {
                        stage.say(format_args!(
                            "{}: refused {:?} {:?} {:?}: {}",
                            self.name, refusal.range, refusal.class, refusal.reason, refusal.detail
                        ));
                        self.feed(stage, Input::Refusal(refusal));
                    }
                    Ok(Down::Beacon(beacon)) => self.feed(stage, Input::Beacon(beacon)),
                    Err(error) => stage
                        .oracle
                        .fail(format!("{} cannot read the centre: {error}", self.name)),
                }
            }
            ToClient::Gone => {
                if let Some(running) = &mut self.running {
                    running.link = None;
                }
                self.feed(stage, Input::Lost);
            }
        }
    }

    /// The planted bug.
    fn believe_puback(&mut self, stage: &mut Stage, stream: StreamId, range: SeqRange) {
        let Some(running) = &self.running else { return };
        let state = running.state.borrow().clone();
        let (Some(centre), known) = (state.centre, state.streams.iter().find(|s| s.id == stream))
        else {
            return;
        };
        let stored = known.map(|known| known.stored.clone()).unwrap_or_default();
        let stored = stored.union(&range.into());
        let receipt = StreamReceipt {
            stream,
            counted: stored.clone(),
            stored,
            lost: proto::SeqSet::new(),
            afresh: false,
        };
        self.believe(stage, centre, receipt);
    }

    fn believe(&mut self, stage: &mut Stage, centre: Centre, receipt: StreamReceipt) {
        let receipt = proto::receipt::Receipt {
            centre,
            streams: vec![receipt],
            correction: None,
        };
        self.feed(stage, Input::Receipt(receipt));
    }

    /// Whether nothing waits here; otherwise what.
    pub(super) fn waits(&self, timeline: u32) -> Option<String> {
        let Some(running) = &self.running else {
            return Some(format!("{} is down", self.name));
        };
        let state = running.state.borrow();
        let idle = state.unsent.passages == 0 && state.losses.is_empty() && state.summarised == 0;
        let done = idle && !self.camera.is_waiting() && running.replies.is_empty();
        // Until it has heard of the database's present life it believes that of the last.
        let done = done
            && state
                .centre
                .is_some_and(|centre| centre.timeline == timeline);
        (!done).then(|| {
            format!(
                "{}: {} unsent, {} losses, {} summarised, camera waits: {}, link {:?}, shut {:?}, {:?}",
                self.name,
                state.unsent.passages,
                state.losses.len(),
                state.summarised,
                self.camera.is_waiting(),
                running.machine.link(),
                running.machine.why_shut(),
                running.machine.tally(),
            )
        })
    }
}

/// Names of units are those of their places.
pub(super) fn name(place: usize) -> DeviceId {
    device(&format!("KV{place}"))
}

/// A name that is known to be one.
pub(super) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap_or_else(|error| unreachable!("{error}"))
}
