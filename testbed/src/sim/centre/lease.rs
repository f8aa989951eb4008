//! ● The keeper of the leases, as `aggregator/src/commit/lease.rs` is: what to claim and to give up
//! is decided by the product's own rule.

use std::collections::BTreeSet;

use aggregator::commit::lease::balance;
use proto::topic::Shard;

use super::super::database::{Database, LEASE_TTL_MS, Owner, Role, SessionId, View, owner_name};
use super::super::queue::Millis;
use super::super::stage::{AggregatorEvent, Stage};
use super::{Aggregator, Link, Phase, Running};

/// What the keeper of one life knows.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    session: Option<SessionId>,
    /// A shard that is given up as soon as the owner has let go of it.
    leaving: Option<Shard>,
    /// The brokers that the others know to be reached here.
    brokers_told: Option<u16>,
    /// Shards are claimed and their tokens not raised yet.
    is_claiming: bool,
    /// The owner waits for new tokens; and whether its writer is ended before.
    pub(super) raise: Option<bool>,
    /// Tokens that a flush may prove.
    pub(super) in_use: BTreeSet<Shard>,
    /// When the broker was seen connected last.
    pub(super) broker_seen: Option<Millis>,
}

impl Running {
    fn held(&self) -> BTreeSet<Shard> {
        self.holdings.tokens.keys().copied().collect()
    }

    /// A broker that went counts on for a lease, as in `intake/reach.rs`.
    fn brokers(&mut self, now: Millis) -> u16 {
        if matches!(self.link, Link::Connected(..)) {
            self.keeper.broker_seen = Some(now);
        }
        let seen = self.keeper.broker_seen;
        u16::from(seen.is_some_and(|seen| now - seen < LEASE_TTL_MS))
    }

    /// Whether what is owned may be another's by now.
    pub(super) const fn is_overdue(&self, now: Millis) -> bool {
        now - self.renewed >= LEASE_TTL_MS
    }
}

impl Aggregator {
    /// The keeper's turn: says that this one lives, raises when asked, moves towards an even share.
    pub(super) fn keep_leases(&mut self, stage: &mut Stage, db: &mut Database) {
        let owner = self.owner();
        let now = stage.now();
        let Some(running) = &mut self.running else {
            return;
        };
        let keeper = &mut running.keeper;
        if keeper
            .session
            .is_none_or(|session| !db.is_connected(session))
        {
            *keeper = Keeper {
                session: db.connect(stage, owner, Role::Lease),
                raise: keeper.raise,
                in_use: std::mem::take(&mut keeper.in_use),
                broker_seen: keeper.broker_seen,
                ..Keeper::default()
            };
            if keeper.session.is_none() {
                if running.is_overdue(now) {
                    running.holdings.tokens.clear();
                }
                return;
            }
            running.holdings.centre = Some(db.centre());
            // What an earlier connection has claimed and not raised, or was about to give up.
            db.keep_only(stage, owner, &running.held());
        }
        if running.keeper.is_claiming || !takes_part(running, stage, db, owner) {
            return;
        }
        self.round(stage, db);
        if let Some(running) = &mut self.running {
            running.renewed = now;
        }
    }

    fn round(&mut self, stage: &mut Stage, db: &mut Database) {
        let owner = self.owner();
        let Some(running) = &mut self.running else {
            return;
        };
        let mut view = look(running, stage.now(), db, owner);
        if let Some(end_writer) = running.keeper.raise.take() {
            if end_writer {
                db.end_writers(stage, &[owner].into());
            }
            running.holdings.tokens = db.raise(stage, owner, &running.held());
            if matches!(running.phase, Phase::Raising) {
                running.phase = Phase::Idle;
            }
            let wait = stage.dice.between(0, running.backoff_ms);
            let event = super::Event::Aggregator(owner.0, owner.1, AggregatorEvent::Retry);
            stage.queue.after(wait, event);
        }
        if let Some(shard) = running.keeper.leaving {
            if running.keeper.in_use.contains(&shard) {
                return;
            }
            db.keep_only(stage, owner, &running.held());
            running.keeper.leaving = None;
            view = look(running, stage.now(), db, owner);
        }
        let moves = balance::moves(&owner_name(owner), &view.members(), &view.shards());
        if !moves.claim.is_empty() {
            let claimed = db.claim(stage, owner, &moves.claim);
            running.keeper.is_claiming = true;
            let raises = AggregatorEvent::Claimed(running.keeper.session, claimed);
            let takes = stage.dice.between(1, 40);
            self.later(stage, takes, raises);
        } else if let Some(shard) = moves.release {
            stage.say(format_args!("centre {}: gives up {shard}", owner.0));
            running.keeper.leaving = Some(shard);
            running.holdings.tokens.remove(&shard);
        }
    }

    /// The second statement of a takeover: the tokens of what was claimed are raised.
    pub(super) fn claimed(
        &mut self,
        stage: &mut Stage,
        db: &mut Database,
        session: Option<SessionId>,
        claimed: &[(Shard, Option<Owner>)],
    ) {
        let owner = self.owner();
        let Some(running) = &mut self.running else {
            return;
        };
        if running.keeper.session != session {
            return;
        }
        running.keeper.is_claiming = false;
        if session.is_none_or(|session| !db.is_connected(session)) {
            return;
        }
        db.end_writers(stage, &claimed.iter().filter_map(|(_, of)| *of).collect());
        let shards = claimed.iter().map(|(shard, _)| *shard).collect();
        let raised = db.raise(stage, owner, &shards);
        stage.say(format_args!("centre {}: owns {raised:?}", owner.0));
        running.holdings.tokens.extend(raised);
        db.notify(stage);
    }

    /// The owner has other tokens in use than before: the keeper may wait for that.
    pub(super) fn uses(&mut self, stage: &mut Stage, shards: BTreeSet<Shard>) {
        if let Some(running) = &mut self.running {
            running.keeper.in_use = shards;
            if running.keeper.leaving.is_some() {
                self.later(stage, 1, AggregatorEvent::News);
            }
        }
    }

    /// Gives everything back in order, and is gone.
    pub(super) fn leave(&mut self, stage: &mut Stage, db: &mut Database) {
        let owner = self.owner();
        let Some(running) = &self.running else {
            return;
        };
        let (session, back_after) = (running.keeper.session, running.stopping.unwrap_or(0));
        if session.is_some_and(|session| db.is_connected(session)) {
            db.leave(stage, owner);
        }
        stage.say(format_args!("centre {}: gone in order", owner.0));
        self.gone(stage, db);
        self.later(stage, back_after, AggregatorEvent::Start);
    }
}

/// Whether no older life of this name counts as living; then says that this one lives.
fn takes_part(running: &mut Running, stage: &mut Stage, db: &mut Database, owner: Owner) -> bool {
    if let Some(older) = db.namesake(stage.now(), owner) {
        if running.holdings.takes_part {
            db.leave(stage, owner);
        }
        running.keeper.brokers_told = None;
        running.holdings.tokens.clear();
        running.holdings.takes_part = false;
        running.holdings.other = Some(owner_name(older));
        running.renewed = stage.now();
        return false;
    }
    let brokers = running.brokers(stage.now());
    let news = running.keeper.brokers_told != Some(brokers);
    db.renew(stage, owner, brokers, news);
    running.keeper.brokers_told = Some(brokers);
    running.holdings.takes_part = true;
    true
}

/// Who lives and owns what; forgets what was taken over by another.
fn look(running: &mut Running, now: Millis, db: &Database, owner: Owner) -> View {
    let view = db.look(now);
    running
        .holdings
        .tokens
        .retain(|shard, _| view.is_owned_by(*shard, owner));
    running.holdings.other = view.other_than(owner);
    view
}
