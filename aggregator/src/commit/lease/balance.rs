//! Which shards an aggregator claims and gives up, so that all of them share evenly. Pure.
//!
//! Every aggregator looks at the same tables and decides for itself alone. Its share is the number of
//! shards divided by the aggregators that serve, rounded up for those that hold most. It claims free
//! shards up to its share; above its share it gives one up, when no shard is free that another may
//! still take. Nothing is taken from anybody who lives.
//!
//! Invariants (tested against any interleaving of looks and moves): nobody claims above its share; as
//! soon as nobody comes or goes, each shard has an owner and the shares differ by at most one, after
//! no more moves than that takes; then nobody moves.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proto::topic::Shard;

/// An aggregator that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name among all that were ever started.
    pub owner: &'a str,
    /// Brokers that it reaches.
    pub brokers: i16,
}

/// What one of them does next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// Free shards to take, those first that others think of last.
    pub claim: Vec<Shard>,
    /// One to give up.
    pub release: Option<Shard>,
}

/// What `me` does, given everybody who lives, and of each shard the living owner.
#[must_use]
pub fn moves(me: &str, members: &[Member<'_>], shards: &BTreeMap<Shard, Option<&str>>) -> Moves {
    let held = |owner: &str| shards.values().filter(|of| **of == Some(owner)).count();
    let (place, share) = share(me, &serving(members), shards.len(), held);
    let mine = held(me);
    let free: Vec<Shard> = shards
        .iter()
        .filter(|(_, owner)| owner.is_none())
        .map(|(shard, _)| *shard)
        .collect();
    if mine < share {
        // Not all begin at the same end.
        let (before, after) = free.split_at((place * share).min(free.len()));
        let claim = after.iter().chain(before).copied().take(share - mine);
        return Moves {
            claim: claim.collect(),
            release: None,
        };
    }
    let surplus = mine > share && free.is_empty();
    let last = shards.iter().rev().find(|(_, owner)| **owner == Some(me));
    Moves {
        claim: Vec::new(),
        release: last.filter(|_| surplus).map(|(shard, _)| *shard),
    }
}

/// Those that reach the most brokers: a broker that is gone for all takes nothing from anybody.
fn serving<'a>(members: &[Member<'a>]) -> Vec<&'a str> {
    let most = members.iter().map(|member| member.brokers).max();
    members
        .iter()
        .filter(|member| Some(member.brokers) == most)
        .map(|member| member.owner)
        .collect()
}

/// The place of `me` among those that serve, and how many shards are its.
fn share(
    me: &str,
    serving: &[&str],
    shards: usize,
    held: impl Fn(&str) -> usize,
) -> (usize, usize) {
    let mut order: Vec<(Reverse<usize>, &str)> = serving
        .iter()
        .map(|owner| (Reverse(held(owner)), *owner))
        .collect();
    order.sort_unstable();
    match order.iter().position(|(_, owner)| *owner == me) {
        Some(place) => {
            let larger = usize::from(place < shards % order.len());
            (place, shards / order.len() + larger)
        }
        None => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    /// The tables, and what each aggregator saw of them when it looked last.
    #[derive(Debug, Clone, Default)]
    struct World {
        /// Brokers reached, by aggregator.
        living: BTreeMap<&'static str, i16>,
        leases: BTreeMap<Shard, Option<&'static str>>,
        seen: BTreeMap<&'static str, Moves>,
        moves: usize,
    }

    #[derive(Debug, Clone)]
    enum Event {
        Join(usize, i16),
        Die(usize),
        Look(usize),
        Act(usize),
    }

    impl World {
        fn new() -> Self {
            Self {
                leases: Shard::all().map(|shard| (shard, None)).collect(),
                ..Self::default()
            }
        }

        fn look(&mut self, me: &'static str) {
            if !self.living.contains_key(me) {
                return;
            }
            let member = |(owner, brokers): (&&'static str, &i16)| Member {
                owner,
                brokers: *brokers,
            };
            let members: Vec<_> = self.living.iter().map(member).collect();
            let living = |owner: &&'static str| self.living.contains_key(owner);
            let shards = self
                .leases
                .iter()
                .map(|(shard, owner)| (*shard, owner.filter(living)))
                .collect();
            let decided = moves(me, &members, &shards);
            assert!(decided.claim.is_empty() || decided.release.is_none());
            self.seen.insert(me, decided);
        }

        /// The database lets a claim pass while the shard is free, a release while it is one's own.
        fn act(&mut self, me: &'static str) -> bool {
            let Some(moves) = self.seen.remove(me) else {
                return false;
            };
            let before = self.moves;
            for shard in moves.claim {
                let owner = self.leases[&shard];
                if owner.is_none_or(|owner| !self.living.contains_key(owner)) {
                    self.leases.insert(shard, Some(me));
                    self.moves += 1;
                }
            }
            if let Some(shard) = moves.release {
                assert_eq!(self.leases[&shard], Some(me), "only one's own is given up");
                self.leases.insert(shard, None);
                self.moves += 1;
            }
            self.moves > before
        }

        fn counts(&self) -> Vec<usize> {
            let most = self.living.values().max();
            let serving = self
                .living
                .iter()
                .filter(|(_, brokers)| Some(*brokers) == most);
            serving
                .map(|(owner, _)| {
                    let of_owner = self.leases.values().filter(|of| **of == Some(*owner));
                    of_owner.count()
                })
                .collect()
        }

        /// Looks and moves in turn until nobody moves; how many moves that took.
        fn settle(&mut self) -> usize {
            self.seen.clear();
            let before = self.moves;
            loop {
                let mut moved = false;
                for name in NAMES {
                    self.look(name);
                    moved |= self.act(name);
                }
                if !moved {
                    return self.moves - before;
                }
                assert!(self.moves - before <= 1_000, "no end of moves");
            }
        }

        fn apply(&mut self, event: &Event) {
            match *event {
                Event::Join(n, brokers) => {
                    self.living.insert(NAMES[n], brokers);
                }
                Event::Die(n) => {
                    self.living.remove(NAMES[n]);
                    self.seen.remove(NAMES[n]);
                }
                Event::Look(n) => self.look(NAMES[n]),
                Event::Act(n) => {
                    self.act(NAMES[n]);
                }
            }
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => (0..NAMES.len(), 0..3_i16).prop_map(|(n, brokers)| Event::Join(n, brokers)),
            1 => (0..NAMES.len()).prop_map(Event::Die),
            8 => (0..NAMES.len()).prop_map(Event::Look),
            8 => (0..NAMES.len()).prop_map(Event::Act),
        ]
    }

    proptest! {
        #[test]
        fn whatever_came_before_the_shards_end_evenly_shared_and_stay(
            events in prop::collection::vec(event(), 0..200),
            joins in 0..NAMES.len(),
        ) {
            let mut world = World::new();
            events.iter().for_each(|event| world.apply(event));
            world.apply(&Event::Join(joins, 1));
            world.settle();
            let counts = world.counts();
            prop_assert_eq!(counts.iter().sum::<usize>(), world.leases.len());
            let (least, most) = (counts.iter().min(), counts.iter().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", counts);
            prop_assert_eq!(world.settle(), 0, "nobody moves any more");
        }

        #[test]
        fn whoever_comes_takes_its_share_and_nothing_else_moves(members in 1..NAMES.len()) {
            let mut world = World::new();
            for name in &NAMES[..members] {
                world.living.insert(name, 1);
                world.settle();
            }
            world.living.insert(NAMES[members], 1);
            let moves = world.settle();
            let newcomer = world.leases.values().filter(|of| **of == Some(NAMES[members]));
            // Each shard that it has was given up once and claimed once.
            prop_assert_eq!(moves, 2 * newcomer.count());
        }
    }

    #[test]
    fn one_alone_owns_all_and_the_shards_of_the_dead_are_free() {
        let mut world = World::new();
        world.living.insert("a", 0);
        assert_eq!(world.settle(), 64);
        world.living.insert("b", 0);
        world.settle();
        assert_eq!(world.counts(), [32, 32]);
        world.living.remove("a");
        assert_eq!(world.settle(), 32);
        assert_eq!(world.counts(), [64]);
    }

    #[test]
    fn who_loses_the_broker_gives_all_to_the_other_and_when_both_lose_it_nothing_moves() {
        let mut world = World::new();
        world.living.extend([("a", 2), ("b", 2)]);
        world.settle();
        world.living.extend([("a", 1), ("b", 1)]);
        assert_eq!(world.settle(), 0);
        world.living.extend([("a", 1), ("b", 2)]);
        assert_eq!(world.settle(), 64, "32 given up and claimed");
        assert_eq!(world.counts(), [64]);
    }

    #[test]
    fn a_surplus_is_kept_while_a_shard_is_free() {
        let names = [("a", 1), ("b", 1)];
        let members = names.map(|(owner, brokers)| Member { owner, brokers });
        let mut shards: BTreeMap<Shard, Option<&str>> =
            Shard::all().map(|shard| (shard, Some("a"))).collect();
        let first = *shards.keys().next().unwrap();
        assert!(moves("a", &members, &shards).release.is_some());
        shards.insert(first, None);
        assert_eq!(moves("a", &members, &shards), Moves::default());
        assert_eq!(moves("b", &members, &shards).claim, [first]);
    }
}
