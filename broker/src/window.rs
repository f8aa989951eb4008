//! The messages of one connection that were delivered at QoS 1 and not yet acknowledged.
//!
//! The router delivers at QoS 0; acknowledgements are the gate's own, so that no client can disturb
//! the router with them.
//!
//! Invariants: at most `limit` identifiers are out, and they are consecutive from the oldest
//! unacknowledged one on, so an identifier is never used twice at a time; an acknowledgement that
//! nobody asked for is told apart. Acknowledgements out of order are taken: the window then moves
//! when its oldest one arrives.
//!
//! Pure.

use std::collections::VecDeque;

/// Packet identifiers on their way, oldest first.
#[derive(Debug)]
pub struct Window {
    /// One entry per identifier out, `true` once acknowledged; never begins with `true`.
    acknowledged: VecDeque<bool>,
    oldest: u16,
    limit: usize,
}

impl Window {
    /// An empty window of at most `limit` identifiers.
    #[must_use]
    pub fn new(limit: u16) -> Self {
        Self {
            acknowledged: VecDeque::new(),
            oldest: 1,
            limit: usize::from(limit),
        }
    }

    /// Whether no further identifier may be given out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.acknowledged.len() >= self.limit
    }

    /// The next identifier, never 0. The caller looks at [`Self::is_full`] before.
    pub fn take(&mut self) -> u16 {
        let taken = after(self.oldest, self.acknowledged.len());
        self.acknowledged.push_back(false);
        taken
    }

    /// Takes an acknowledgement; `false` when `pkid` is not out.
    #[must_use]
    pub fn acknowledge(&mut self, pkid: u16) -> bool {
        let Some(at) = distance(self.oldest, pkid) else {
            return false;
        };
        match self.acknowledged.get_mut(at) {
            Some(seen @ false) => *seen = true,
            _ => return false,
        }
        while self.acknowledged.front() == Some(&true) {
            self.acknowledged.pop_front();
            self.oldest = after(self.oldest, 1);
        }
        true
    }
}

/// The identifier `steps` after `pkid`, in the circle 1 to 65,535.
fn after(pkid: u16, steps: usize) -> u16 {
    let place = (usize::from(pkid) - 1 + steps) % usize::from(u16::MAX);
    u16::try_from(place + 1).expect("a remainder of 65,535, plus one")
}

/// Steps from `oldest` to `pkid` in that circle; none for 0, which is no identifier.
fn distance(oldest: u16, pkid: u16) -> Option<usize> {
    let from_start = usize::from(pkid).checked_sub(1)?;
    let circle = usize::from(u16::MAX);
    Some((from_start + circle - (usize::from(oldest) - 1)) % circle)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identifiers_go_round_without_zero() {
        let mut window = Window::new(1);
        for round in 0..70_000_u32 {
            let pkid = window.take();
            assert_eq!(u32::from(pkid), round % 65_535 + 1);
            assert!(window.is_full());
            assert!(window.acknowledge(pkid));
        }
    }

    #[test]
    fn an_acknowledgement_that_nobody_asked_for_is_told_apart() {
        let mut window = Window::new(10);
        assert!(!window.acknowledge(1));
        assert_eq!(window.take(), 1);
        assert!(!window.acknowledge(0));
        assert!(!window.acknowledge(2));
        assert!(window.acknowledge(1));
        assert!(!window.acknowledge(1));
    }

    proptest! {
        #[test]
        fn any_order_of_acknowledgements_agrees_with_a_set(
            steps in proptest::collection::vec(proptest::option::of(0_u16..40), 0..400),
        ) {
            let mut window = Window::new(16);
            let mut out = BTreeSet::new();
            for step in steps {
                match step {
                    None if !window.is_full() => {
                        prop_assert!(out.insert(window.take()), "an identifier was given out twice");
                    }
                    None => prop_assert!(!out.is_empty()),
                    Some(pkid) => prop_assert_eq!(window.acknowledge(pkid), out.remove(&pkid)),
                }
                prop_assert!(out.len() <= 16);
            }
        }
    }
}
