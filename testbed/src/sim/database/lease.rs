//! ● Leases and tokens: `aggregator/src/commit/lease.rs`.

use std::collections::{BTreeMap, BTreeSet};

use proto::topic::Shard;

use super::super::queue::Millis;
use super::super::stage::Stage;
use super::{Database, Lease, Owner, Role};

impl Database {
    /// The shards among `held` whose leases are still the owner's, now renewed.
    pub(in crate::sim) fn renew(
        &mut self,
        now: Millis,
        owner: Owner,
        held: &BTreeSet<Shard>,
        ttl_ms: Millis,
    ) -> BTreeSet<Shard> {
        let mut kept = BTreeSet::new();
        for shard in held {
            if let Some(lease) = self.tables.leases.get_mut(shard)
                && lease.owner == Some(owner)
            {
                lease.expires_at = now + ttl_ms;
                kept.insert(*shard);
            }
        }
        kept
    }

    /// The shards among `wanted` that are free, now leased, and who had them.
    pub(in crate::sim) fn acquire(
        &mut self,
        now: Millis,
        owner: Owner,
        wanted: &BTreeSet<Shard>,
        ttl_ms: Millis,
        missed_ms: Millis,
    ) -> (BTreeSet<Shard>, BTreeSet<Owner>) {
        let keepers: BTreeSet<Owner> = self
            .sessions
            .values()
            .filter(|(_, role)| *role == Role::Lease)
            .map(|(owner, _)| *owner)
            .collect();
        let (mut shards, mut owners) = (BTreeSet::new(), BTreeSet::new());
        for shard in wanted {
            let lease = self.tables.leases.entry(*shard).or_default();
            let free = lease.expires_at < now
                || lease.owner.is_none_or(|of| {
                    of == owner || lease.expires_at < now + missed_ms && !keepers.contains(&of)
                });
            if free {
                owners.extend(lease.owner.filter(|of| *of != owner));
                *lease = Lease {
                    owner: Some(owner),
                    expires_at: now + ttl_ms,
                };
                shards.insert(*shard);
            }
        }
        (shards, owners)
    }

    /// Ends the writers of these owners, as far as that works.
    pub(in crate::sim) fn end_writers(&mut self, stage: &mut Stage, owners: &BTreeSet<Owner>) {
        if stage.dice.percent(70) {
            self.sessions
                .retain(|_, (of, role)| *role != Role::Writer || !owners.contains(of));
        }
    }

    /// Raises the tokens of these shards; waits for whoever has them locked.
    pub(in crate::sim) fn raise(
        &mut self,
        stage: &mut Stage,
        shards: &BTreeSet<Shard>,
    ) -> BTreeMap<Shard, i64> {
        if !self.no_fencing {
            self.settle(stage, |writes| !writes.shards.is_disjoint(shards));
        }
        let raised = shards.iter().map(|shard| {
            let token = self.tables.tokens.entry(*shard).or_default();
            *token += 1;
            (*shard, *token)
        });
        raised.collect()
    }

    /// Who else owns something now.
    pub(in crate::sim) fn other_owner(&self, now: Millis, owner: Owner) -> Option<String> {
        let mut leases = self.tables.leases.values();
        let other = leases.find(|l| l.expires_at >= now && l.owner.is_some_and(|of| of != owner));
        other
            .and_then(|lease| lease.owner)
            .map(|(place, life)| format!("{place} life {life}"))
    }
}
