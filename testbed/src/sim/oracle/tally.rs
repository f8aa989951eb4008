//! What a run saw, in numbers.

/// What a run saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Passages that units made durable.
    pub accepted: u64,
    /// Transactions that the oracle looked at.
    pub commits: u64,
    /// Passages counted by summaries before, or instead of, their raw rows.
    pub summarised: u64,
    /// Passages lost altogether, and declared.
    pub lost: u64,
    /// Items that the door refused as of the future.
    pub early: u64,
    /// Times that a unit was told that its clock is wrong.
    pub corrected: u64,
    /// Stores that were put back.
    pub put_back: u64,
    /// Copies of units that ran.
    pub clones: u64,
    /// Alarms of a cloned identity.
    pub alarms: u64,
    /// Passages whose raw rows are lost.
    pub raw_lost: u64,
    /// Of these, those that nobody declared.
    pub rowless: u64,
    /// Posts refused at the quota.
    pub full: u64,
    /// Items that a camera gave up, since it was refused too often.
    pub turned_away: u64,
    /// Posts refused for want of space.
    pub no_space: u64,
    /// Faults.
    pub faults: u64,
    /// Receipts that were compared with what is committed.
    pub receipts: u64,
    /// Virtual seconds from the end of the faults until everything had drained.
    pub drained_s: u64,
}

impl Tally {
    pub(in crate::sim) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.commits += other.commits;
        self.summarised += other.summarised;
        self.lost += other.lost;
        self.early += other.early;
        self.corrected += other.corrected;
        self.raw_lost += other.raw_lost;
        self.rowless += other.rowless;
        self.full += other.full;
        self.turned_away += other.turned_away;
        self.put_back += other.put_back;
        self.clones += other.clones;
        self.alarms += other.alarms;
        self.no_space += other.no_space;
        self.faults += other.faults;
        self.receipts += other.receipts;
        self.drained_s = self.drained_s.max(other.drained_s);
    }
}
