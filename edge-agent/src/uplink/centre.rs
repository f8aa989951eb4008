//! Which centre the unit belongs to, and whose word counts. Pure.
//!
//! A receipt frees passages, so it must come from the database that the unit is pinned to and from
//! that database's present life (architecture rule 9): a promoted standby or a restored backup may
//! lack what its earlier life had acknowledged, and says so by a higher timeline.

use proto::receipt::Centre;

/// The database as far as the unit knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allegiance {
    known: Option<Centre>,
}

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// The known centre's, in its present life; or the first that was ever heard.
    Ours,
    /// Ours, in a later life than the one before: what it acknowledged earlier may be gone.
    Reborn,
    /// Ours, but in a life that is over; a delayed message.
    Past,
    /// Another database's.
    Foreign,
}

impl Allegiance {
    /// The pin that was found on the disk, if any.
    #[must_use]
    pub const fn new(known: Option<Centre>) -> Self {
        Self { known }
    }

    /// Judges who speaks, and remembers a first or reborn centre.
    pub fn hear(&mut self, centre: Centre) -> Voice {
        let voice = match self.known {
            None => Voice::Ours,
            Some(known) if known.id != centre.id => return Voice::Foreign,
            Some(known) if centre.timeline < known.timeline => return Voice::Past,
            Some(known) if centre.timeline > known.timeline => Voice::Reborn,
            Some(_) => Voice::Ours,
        };
        self.known = Some(centre);
        voice
    }

    /// The centre that is known.
    #[must_use]
    pub const fn known(&self) -> Option<Centre> {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use proto::CentreId;

    use super::*;

    const fn centre(id: u8, timeline: u32) -> Centre {
        Centre {
            id: CentreId::from_bytes([id; 16]),
            timeline,
        }
    }

    #[test]
    fn the_first_centre_is_pinned_and_only_its_later_lives_are_followed() {
        let mut allegiance = Allegiance::default();
        for (heard, voice) in [
            (centre(1, 5), Voice::Ours),
            (centre(1, 5), Voice::Ours),
            (centre(2, 9), Voice::Foreign),
            (centre(1, 4), Voice::Past),
            (centre(1, 6), Voice::Reborn),
            (centre(1, 5), Voice::Past),
            (centre(1, 6), Voice::Ours),
        ] {
            assert_eq!(allegiance.hear(heard), voice, "{heard:?}");
        }
        assert_eq!(allegiance.known(), Some(centre(1, 6)));
    }

    #[test]
    fn a_pin_from_the_disk_holds_from_the_start() {
        let mut allegiance = Allegiance::new(Some(centre(1, 1)));
        assert_eq!(allegiance.hear(centre(2, 1)), Voice::Foreign);
    }
}
