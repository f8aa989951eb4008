//! Which of the brokers is tried next. Pure.
//!
//! The list is an order of preference. Attempts go through it in turn, with the pauses of the uplink's
//! backoff between them. A link that stood and broke begins again with the first. While a link
//! carries, it is kept, whichever broker it leads to: the centre serves all of them alike, and a
//! change costs whatever is on its way. With a choice, a broker over which the centre says nothing
//! for [`SILENCE_MS`] although something waits for its answer counts as one that cannot be reached.

use super::backoff::Millis;

/// See the module. Longer than an answer takes on the worst of links, with one resend.
pub const SILENCE_MS: Millis = 120_000;

/// The place in the list, and what is known of the link there.
#[derive(Debug, Clone)]
pub struct Route {
    brokers: usize,
    at: usize,
    /// Since when the centre owes a word, while the link stands.
    link: Option<Option<Millis>>,
}

impl Route {
    /// Begins with the first of so many brokers, at least one.
    #[must_use]
    pub const fn new(brokers: usize) -> Self {
        Self {
            brokers,
            at: 0,
            link: None,
        }
    }

    /// The place of the broker that is, or will be, tried.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// The link stands.
    pub const fn stands(&mut self) {
        self.link = Some(None);
    }

    /// The centre said something.
    pub const fn heard(&mut self) {
        if self.link.is_some() {
            self.link = Some(None);
        }
    }

    /// Whether something waits for the centre's answer now.
    pub const fn waits(&mut self, now: Millis, waits: bool) {
        if let Some(since) = &mut self.link {
            match (waits, *since) {
                (true, None) => *since = Some(now),
                (false, Some(_)) => *since = None,
                _ => {}
            }
        }
    }

    /// When the broker counts as one that cannot be reached; never without another.
    #[must_use]
    pub fn silent_at(&self) -> Option<Millis> {
        let since = self.link.flatten().filter(|_| self.brokers > 1)?;
        Some(since.saturating_add(SILENCE_MS))
    }

    /// The link broke or did not come about.
    pub fn lost(&mut self, now: Millis) {
        let silent = self.silent_at().is_some_and(|at| at <= now);
        let stood = self.link.take().is_some();
        self.at = if stood && !silent {
            0
        } else {
            (self.at + 1) % self.brokers
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_tried_in_turn_and_a_link_that_broke_begins_with_the_first() {
        let mut route = Route::new(3);
        let tried: Vec<usize> = (0..5)
            .map(|now| {
                let at = route.at();
                route.lost(now);
                at
            })
            .collect();
        assert_eq!(tried, [0, 1, 2, 0, 1]);
        route.stands();
        assert_eq!(route.at(), 2, "kept while it stands");
        route.lost(9);
        assert_eq!(route.at(), 0);
    }

    #[test]
    fn a_broker_without_a_word_of_the_centre_is_left_for_the_next() {
        let mut route = Route::new(2);
        route.stands();
        assert_eq!(route.silent_at(), None, "nothing waits for an answer");
        route.waits(1_000, true);
        route.waits(2_000, true);
        assert_eq!(route.silent_at(), Some(1_000 + SILENCE_MS));
        route.heard();
        assert_eq!(route.silent_at(), None);
        route.waits(5_000, true);
        route.lost(5_000 + SILENCE_MS);
        assert_eq!(route.at(), 1);
        route.stands();
        route.waits(6_000, true);
        route.waits(7_000, false);
        assert_eq!(route.silent_at(), None);
    }

    #[test]
    fn the_only_broker_is_never_left() {
        let mut route = Route::new(1);
        route.stands();
        route.waits(0, true);
        assert_eq!(route.silent_at(), None);
        route.lost(SILENCE_MS);
        assert_eq!(route.at(), 0);
    }
}
