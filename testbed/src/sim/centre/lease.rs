//! ● Leases and tokens, as `aggregator/src/commit/lease.rs` keeps them.

use std::collections::BTreeSet;

use proto::topic::Shard;

use super::super::database::{Database, Role};
use super::super::stage::{AggregatorEvent, Stage};
use super::{Aggregator, LEASE_RENEW_MS, LEASE_TTL_MS, Phase};

impl Aggregator {
    /// The lease keeper's turn: renew, raise if asked, acquire.
    pub(super) fn keep_leases(&mut self, stage: &mut Stage, db: &mut Database) {
        let owner = self.owner();
        let now = stage.now();
        let Some(running) = &mut self.running else {
            return;
        };
        let asked = running.raise_wanted;
        if !asked {
            self.later(stage, LEASE_RENEW_MS, AggregatorEvent::Lease);
        }
        let Some(running) = &mut self.running else {
            return;
        };
        if running.lease.is_none_or(|lease| !db.is_connected(lease)) {
            running.lease = db.connect(stage, owner, Role::Lease);
            if running.lease.is_none() {
                if now - running.renewed >= LEASE_TTL_MS {
                    running.holdings.tokens.clear();
                }
                // Whoever waits for a raise asks again.
                if asked {
                    let wait = stage.dice.between(100, 2_000);
                    self.later(stage, wait, AggregatorEvent::Lease);
                }
                return;
            }
            running.holdings.centre = Some(db.centre());
        }
        let held: BTreeSet<Shard> = running.holdings.tokens.keys().copied().collect();
        let kept = db.renew(now, owner, &held, LEASE_TTL_MS);
        running
            .holdings
            .tokens
            .retain(|shard, _| kept.contains(shard));
        if asked {
            running.raise_wanted = false;
            db.end_writers(stage, &[owner].into());
            let raised = db.raise(stage, &kept);
            running.holdings.tokens.extend(raised);
            if matches!(running.phase, Phase::Raising) {
                running.phase = Phase::Idle;
                let wait = stage.dice.between(0, running.backoff_ms);
                let event = super::Event::Aggregator(owner.0, owner.1, AggregatorEvent::Retry);
                stage.queue.after(wait, event);
            }
        }
        let mut wanted: BTreeSet<Shard> = self.shards.difference(&kept).copied().collect();
        if stage.scenario.shared {
            // As when others lock the rows at the same moment: some are passed over.
            wanted.retain(|_| stage.dice.percent(50));
        }
        if !wanted.is_empty() {
            let missed_ms = LEASE_TTL_MS - LEASE_RENEW_MS * 3 / 2;
            let (shards, owners) = db.acquire(now, owner, &wanted, LEASE_TTL_MS, missed_ms);
            if !shards.is_empty() {
                db.end_writers(stage, &owners);
                let raised = db.raise(stage, &shards);
                stage.say(format_args!("centre {}: owns {raised:?}", owner.0));
                running.holdings.tokens.extend(raised);
            }
        }
        running.holdings.other = db.other_owner(now, owner);
        running.renewed = now;
    }
}
