//! ● Leases and tokens: `aggregator/src/commit/lease/table.rs`, one statement a function.
//!
//! Whatever changes what others act upon is notified to everybody who keeps leases.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::commit::lease::balance::Member;
use proto::topic::Shard;

use super::super::queue::{Millis, wall_ms};
use super::super::stage::{AggregatorEvent, Event, Stage};
use super::{Database, Owner, Role};

/// As by default: a lease, and how long after a renewal somebody without a session is dead.
pub(in crate::sim) const LEASE_TTL_MS: Millis = 10_000;
const SUSPECT_MS: Millis = 1_500;

/// The row of an aggregator.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    name: String,
    since: Millis,
    renewed_at: Millis,
    brokers: u16,
}

/// Everybody who lives, and of each shard the living owner.
#[derive(Debug, Default)]
pub(in crate::sim) struct View {
    members: Vec<(Owner, String, i16)>,
    shards: BTreeMap<Shard, Option<Owner>>,
}

impl View {
    pub(in crate::sim) fn members(&self) -> Vec<Member<'_>> {
        let members = self.members.iter();
        members
            .map(|(_, owner, brokers)| Member {
                owner,
                brokers: *brokers,
            })
            .collect()
    }

    fn name(&self, owner: Owner) -> Option<&str> {
        let mut members = self.members.iter();
        members
            .find(|(of, _, _)| *of == owner)
            .map(|(_, name, _)| name.as_str())
    }

    pub(in crate::sim) fn shards(&self) -> BTreeMap<Shard, Option<&str>> {
        let named = |owner: Option<Owner>| owner.and_then(|owner| self.name(owner));
        let shards = self.shards.iter();
        shards
            .map(|(shard, owner)| (*shard, named(*owner)))
            .collect()
    }

    pub(in crate::sim) fn is_owned_by(&self, shard: Shard, owner: Owner) -> bool {
        self.shards.get(&shard) == Some(&Some(owner))
    }

    /// Somebody else who lives.
    pub(in crate::sim) fn other_than(&self, me: Owner) -> Option<String> {
        let mut members = self.members.iter();
        members
            .find(|(owner, _, _)| *owner != me)
            .map(|(_, name, _)| name.clone())
    }
}

/// What an aggregator calls itself.
pub(in crate::sim) fn owner_name((place, life): Owner) -> String {
    format!("centre-{place} life {life}")
}

impl Database {
    /// Whether an aggregator lives. Within a lease of the server's start nobody is judged.
    fn lives(&self, now: Millis, owner: Owner) -> bool {
        let Some(keeper) = self.tables.keepers.get(&owner) else {
            return false;
        };
        let mut sessions = self.sessions.values();
        let renewed_before = now.saturating_sub(keeper.renewed_at);
        now < self.started_at + LEASE_TTL_MS
            || renewed_before < SUSPECT_MS
            || renewed_before < LEASE_TTL_MS && sessions.any(|of| *of == (owner, Role::Lease))
    }

    /// An older life of the same aggregator that counts as living.
    pub(in crate::sim) fn namesake(&self, now: Millis, (place, life): Owner) -> Option<Owner> {
        let since = |owner| self.tables.keepers.get(&owner).map(|keeper| keeper.since);
        let own = since((place, life)).unwrap_or(Millis::MAX);
        let mut others = self.tables.keepers.keys().copied();
        others.find(|other| {
            let is_older = other.0 == place && other.1 != life && since(*other) <= Some(own);
            is_older && self.lives(now, *other)
        })
    }

    /// Says that this one lives; `news` when the others should look at once.
    pub(in crate::sim) fn renew(
        &mut self,
        stage: &mut Stage,
        owner: Owner,
        brokers: u16,
        news: bool,
    ) {
        let now = stage.now();
        let keeper = self.tables.keepers.entry(owner).or_insert_with(|| Keeper {
            name: owner_name(owner),
            since: now,
            renewed_at: now,
            brokers,
        });
        (keeper.renewed_at, keeper.brokers) = (now, brokers);
        if news {
            self.notify(stage);
        }
    }

    pub(in crate::sim) fn look(&self, now: Millis) -> View {
        let living = self.tables.keepers.iter();
        let members = living.filter(|(owner, _)| self.lives(now, **owner));
        let members: Vec<(Owner, String, i16)> = members
            .map(|(owner, keeper)| {
                let brokers = i16::try_from(keeper.brokers).unwrap_or(i16::MAX);
                (*owner, keeper.name.clone(), brokers)
            })
            .collect();
        let is_living = |owner: &Owner| members.iter().any(|(of, _, _)| of == owner);
        let shards = self.tables.leases.iter();
        let shards = shards.map(|(shard, owner)| (*shard, owner.filter(is_living)));
        View {
            shards: shards.collect(),
            members,
        }
    }

    /// Takes those of these shards that nobody who lives owns, but for rows that somebody else has
    /// locked at this moment. Returns who had each.
    pub(in crate::sim) fn claim(
        &mut self,
        stage: &mut Stage,
        owner: Owner,
        shards: &[Shard],
    ) -> Vec<(Shard, Option<Owner>)> {
        let mut claimed = Vec::new();
        for shard in shards {
            let before = self.tables.leases.get(shard).copied().flatten();
            let is_free = before.is_none_or(|of| !self.lives(stage.now(), of));
            if is_free && !stage.dice.percent(10) {
                self.tables.leases.insert(*shard, Some(owner));
                claimed.push((*shard, before));
            }
        }
        claimed
    }

    /// Gives up all leases but these.
    pub(in crate::sim) fn keep_only(
        &mut self,
        stage: &mut Stage,
        owner: Owner,
        kept: &BTreeSet<Shard>,
    ) {
        let mut freed = false;
        for (shard, of) in &mut self.tables.leases {
            if *of == Some(owner) && !kept.contains(shard) {
                (*of, freed) = (None, true);
            }
        }
        if freed {
            self.notify(stage);
        }
    }

    /// Gives up all leases and takes part no longer.
    pub(in crate::sim) fn leave(&mut self, stage: &mut Stage, owner: Owner) {
        self.tables.keepers.remove(&owner);
        for of in self.tables.leases.values_mut() {
            *of = of.filter(|of| *of != owner);
        }
        self.notify(stage);
    }

    /// Has everybody look who keeps leases.
    pub(in crate::sim) fn notify(&self, stage: &mut Stage) {
        for ((place, life), role) in self.sessions.values() {
            if *role == Role::Lease {
                let delay = stage.dice.between(1, 40);
                let news = Event::Aggregator(*place, *life, AggregatorEvent::News);
                stage.queue.after(delay, news);
            }
        }
    }

    /// Ends the writers of these owners, as far as that works.
    pub(in crate::sim) fn end_writers(&mut self, stage: &mut Stage, owners: &BTreeSet<Owner>) {
        if stage.dice.percent(70) {
            self.sessions
                .retain(|_, (of, role)| *role != Role::Writer || !owners.contains(of));
        }
    }

    /// Raises the tokens of those of these shards that are still the owner's; waits for whoever has
    /// them locked. At least to the seconds since 1970.
    pub(in crate::sim) fn raise(
        &mut self,
        stage: &mut Stage,
        owner: Owner,
        shards: &BTreeSet<Shard>,
    ) -> BTreeMap<Shard, i64> {
        let mine: BTreeSet<Shard> = shards
            .iter()
            .copied()
            .filter(|shard| self.tables.leases.get(shard) == Some(&Some(owner)))
            .collect();
        if !self.no_fencing {
            self.settle(stage, |writes| !writes.shards.is_disjoint(&mine));
        }
        let least = wall_ms(stage.now()) / 1_000;
        let raised = mine.iter().map(|shard| {
            let token = self.tables.tokens.entry(*shard).or_default();
            *token = least.max(*token + 1);
            (*shard, *token)
        });
        raised.collect()
    }

    /// Whether each shard has a living owner and the shares of all differ by at most one; otherwise
    /// what is so.
    pub(in crate::sim) fn is_unbalanced(&self, now: Millis) -> Option<String> {
        let view = self.look(now);
        let held = |owner: Owner| {
            view.shards
                .values()
                .filter(|of| **of == Some(owner))
                .count()
        };
        let counts: Vec<usize> = view
            .members
            .iter()
            .map(|(owner, _, _)| held(*owner))
            .collect();
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        let is_even = most - least <= 1 && counts.iter().sum::<usize>() == view.shards.len();
        (!is_even).then(|| format!("shards are shared unevenly: {view:?}"))
    }
}
