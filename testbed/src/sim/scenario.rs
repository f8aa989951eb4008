//! ● What a seed stands for: how many units, how they are set up, what may befall them.

use aggregator::commit::turns::TURNS;
use edge_agent::buffer::QuotaPolicy;

use super::dice::Dice;
use super::queue::Millis;

/// As by default.
const FLUSH_MS: Millis = 1_000 / TURNS as Millis;
const LEASE_RENEW_MS: Millis = 1_000;

/// A quota that is never reached.
const QUOTA_AMPLE: u64 = 1 << 30;

const DAY_MS: Millis = 86_400_000;

/// What is broken on purpose, in the simulated shells around the product's code, to show that it
/// would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// A unit takes the broker's PUBACK for a receipt.
    DeleteOnPuback,
    /// A unit answers before the disk has anything.
    SkipFlush,
    /// The centre sends receipts before its COMMIT.
    ReceiptBeforeCommit,
    /// Windows are committed in one transaction, cursors in the next.
    CursorAfterWindows,
    /// The database takes what an owner writes, whatever its token and the revisions are.
    NoFencing,
    /// A unit names its streams by what its store remembers, not by chance.
    StreamFromStore,
}

/// What is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Course {
    /// Some minutes of several units in which fault follows fault.
    #[default]
    Faults,
    /// Three days of a unit that is offline for hours and drops the oldest at its quota.
    DropOldest,
    /// The same of one that refuses new passages at its quota.
    RefuseNew,
}

/// How time passes in a course.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From the first fault to the end of all faults.
    pub(super) trouble_ms: Millis,
    /// Faults come this often,
    pub(super) fault_every_ms: Millis,
    /// and last so many times as long as they would.
    pub(super) lasting: u64,
    /// From one turn of an aggregator's owner to the next.
    pub(super) flush_ms: Millis,
    /// From one renewal of a lease to the next.
    pub(super) renew_ms: Millis,
    pub(super) heartbeat_ms: Millis,
}

/// Within this time after the last fault everything has drained.
pub(super) const DRAIN_MS_MAX: Millis = 90 * 60_000;

/// How one run is set up.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) bug: Option<Bug>,
    pub(super) units: Vec<UnitSetup>,
    /// Whether images of stores are taken and put back.
    pub(super) restores: bool,
    /// Passages of one message.
    pub(super) batch_passages: u64,
    pub(super) times: Times,
    /// Whether a standby without the last commits may be promoted.
    pub(super) promotions: bool,
    /// Whether somebody with a certificate of his own tries what he must not.
    pub(super) intruder: bool,
    /// One in so many passages has a value that the database does not take; 0: none.
    pub(super) poison_one_in: u64,
    /// Aggregators that share the shards.
    pub(super) aggregators: usize,
}

/// What a unit is a copy of.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyOf {
    pub(super) unit: usize,
    /// Whether one is off while the other runs; if not both run.
    pub(super) by_turns: bool,
}

/// How one unit is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnitSetup {
    /// Where it is a copy of another unit, with its certificate and its store: of which.
    pub(super) copy_of: Option<CopyOf>,
    /// Whether the camera gives each passage an id.
    pub(super) ids: bool,
    pub(super) quota_bytes: u64,
    pub(super) policy: QuotaPolicy,
    pub(super) offered_ahead_max: u64,
    /// The unit's clock minus the centre's, while nothing is wrong with it.
    pub(super) skew_ms: i64,
    /// Whether its clock runs on without power. If not it starts in 1970, until somebody sets it.
    pub(super) rtc: bool,
    /// Whether the camera has a clock of its own, which is right.
    pub(super) camera_clock: bool,
    /// From one post to the next, at most.
    pub(super) post_every_ms: Millis,
    /// Passages of one post, at most.
    pub(super) post_passages_max: u64,
    /// A backlog that is older goes ahead as summaries; 0: never.
    pub(super) summary_after_ms: Millis,
    /// The owner's limit on the link, if there is one.
    pub(super) rate_bytes_per_s_max: Option<u64>,
    /// Frames that its link takes at a time.
    pub(super) link_frames_max: usize,
}

impl Scenario {
    /// Whose name and certificate a unit has: its own, but for a copy.
    pub(super) fn identity(&self, place: usize) -> usize {
        let copy_of = self.units[place].copy_of;
        copy_of.map_or(place, |of| of.unit)
    }

    /// Whether a unit may lose passages by what it is set up for.
    pub(super) fn may_lose(&self, place: usize) -> bool {
        let setup = &self.units[place];
        let drops = setup.policy == QuotaPolicy::DropOldest && setup.quota_bytes < QUOTA_AMPLE;
        drops || self.poison_one_in > 0
    }

    pub(super) fn draw(dice: &mut Dice, course: Course, bug: Option<Bug>) -> Self {
        match course {
            Course::Faults => Self::faults(dice, bug),
            Course::DropOldest => Self::days_at_quota(dice, bug, QuotaPolicy::DropOldest, 30_000),
            Course::RefuseNew => Self::days_at_quota(dice, bug, QuotaPolicy::RefuseNew, 8_000),
        }
    }

    /// With a quota that hours offline use up.
    fn days_at_quota(
        dice: &mut Dice,
        bug: Option<Bug>,
        policy: QuotaPolicy,
        quota_bytes: u64,
    ) -> Self {
        let unit = UnitSetup {
            ids: true,
            quota_bytes,
            policy,
            post_every_ms: 90_000,
            post_passages_max: 12,
            rate_bytes_per_s_max: None,
            link_frames_max: 48,
            ..UnitSetup::draw(dice, false)
        };
        Self {
            bug,
            units: vec![unit],
            restores: false,
            batch_passages: 60,
            // With the steps of the first course three days would take too long.
            times: Times {
                trouble_ms: 3 * DAY_MS,
                fault_every_ms: DAY_MS / 12,
                lasting: 250,
                flush_ms: 5_000,
                renew_ms: 5_000,
                heartbeat_ms: 300_000,
            },
            promotions: false,
            intruder: false,
            poison_one_in: 0,
            aggregators: 2,
        }
    }

    fn faults(dice: &mut Dice, bug: Option<Bug>) -> Self {
        // Copies that were dropped for the quota cannot be offered to a database put back in time.
        let promotions = dice.percent(20);
        let count = dice.between(1, 3);
        let units = (0..count).map(|_| UnitSetup::draw(dice, promotions));
        let mut units: Vec<UnitSetup> = units.collect();
        let (restores, has_copy) = (!promotions && dice.percent(20), dice.percent(10));
        if has_copy {
            let copy_of = CopyOf {
                unit: dice.index(units.len()),
                by_turns: dice.percent(50),
            };
            units.push(UnitSetup {
                copy_of: Some(copy_of),
                ..units[copy_of.unit]
            });
        }
        Self {
            bug,
            units,
            restores,
            batch_passages: dice.pick(&[5, 20, 60]),
            times: Times {
                trouble_ms: 4 * 60_000,
                fault_every_ms: dice.pick(&[4_000, 8_000, 20_000]),
                lasting: 1,
                flush_ms: FLUSH_MS,
                renew_ms: LEASE_RENEW_MS,
                heartbeat_ms: 30_000,
            },
            promotions,
            intruder: dice.percent(30),
            poison_one_in: if dice.percent(10) { 40 } else { 0 },
            aggregators: dice.pick(&[2, 2, 3]),
        }
    }
}

impl UnitSetup {
    fn draw(dice: &mut Dice, promotions: bool) -> Self {
        let tight = !promotions && dice.percent(40);
        Self {
            copy_of: None,
            ids: dice.percent(60),
            quota_bytes: if tight {
                dice.between(700, 3_000)
            } else {
                QUOTA_AMPLE
            },
            policy: dice.pick(&[
                QuotaPolicy::DropOldest,
                QuotaPolicy::DropOldest,
                QuotaPolicy::RefuseNew,
            ]),
            offered_ahead_max: dice.pick(&[4, 20, 200]),
            skew_ms: dice.pick(&[0, 0, -40_000, 30_000, 8 * 60_000]),
            rtc: dice.percent(85),
            camera_clock: dice.percent(30),
            post_every_ms: dice.pick(&[3_000, 10_000, 20_000]),
            post_passages_max: dice.pick(&[1, 4, 12]),
            summary_after_ms: dice.pick(&[0, 5_000, 60_000]),
            rate_bytes_per_s_max: dice.pick(&[None, None, None, Some(1_000)]),
            link_frames_max: dice.pick(&[3, 48, 48]),
        }
    }
}
