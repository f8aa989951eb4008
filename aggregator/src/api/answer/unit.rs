//! ● What is said of the units themselves.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::utc::Utc;
use crate::store::reader::{DeviceRow, Standing};

/// Whether a unit is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// A heartbeat arrived within the last 5 minutes.
    Online,
    /// The last heartbeat is older.
    Silent,
    /// It has delivered, but never sent a heartbeat.
    Unheard,
    /// Two units speak under its name: nothing turns final until an operator has looked.
    Cloned,
}

impl UnitState {
    fn of(standing: &Standing, now: Utc) -> Self {
        let now_ms = now.as_millis();
        if standing.is_cloned(now_ms) {
            Self::Cloned
        } else if standing.heartbeat_ms.is_none() {
            Self::Unheard
        } else if standing.silent_since_ms(now_ms).is_some() {
            Self::Silent
        } else {
            Self::Online
        }
    }
}

/// What a unit holds that has no receipt yet, as of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Backlog {
    /// Passages.
    #[schema(example = 12)]
    pub passages: i64,
    /// Logical bytes.
    #[schema(example = 480)]
    pub bytes: Option<i64>,
    /// The oldest event time among them.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:29Z")]
    pub oldest: Option<Utc>,
    /// The newest event time among them.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:30Z")]
    pub newest: Option<Utc>,
    /// Passages by which they became fewer in a minute: receipted less accepted, below 0 while they
    /// became more.
    #[schema(example = 3_480)]
    pub drain_per_min: Option<i64>,
    /// When none will wait any more if that goes on; null while they do not become fewer.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:16:00Z")]
    pub done_at: Option<Utc>,
}

/// The disk under a unit's buffer, as of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Disk {
    /// Bytes that the buffer's files take.
    #[schema(example = 8_388_608)]
    pub used_bytes: Option<i64>,
    /// Logical bytes that the buffer may hold.
    #[schema(example = 1_073_741_824)]
    pub quota_bytes: Option<i64>,
    /// Bytes free.
    #[schema(example = 12_884_901_888_i64)]
    pub free_bytes: Option<i64>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unit {
    /// Its name.
    #[schema(example = "KV12345")]
    pub kvfv_id: String,
    /// Whether it is heard of.
    pub state: UnitState,
    /// Group of units owned together by one aggregator, 0 to 63.
    #[schema(example = 17)]
    pub shard: i16,
    /// When the centre first heard of it.
    #[schema(value_type = String, format = DateTime, example = "2025-03-01T08:00:00Z")]
    pub first_seen: Utc,
    /// Start of the newest 5-minute window in which it counted a vehicle: its last passage lies in
    /// the 5 minutes from there.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:00Z")]
    pub last_passage_window: Option<Utc>,
    /// Windows that end by then are final.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub final_to: Option<Utc>,
    /// The unit's own statement: everything of it before this event time has been counted.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:14:59.5Z")]
    pub frontier: Option<Utc>,
    /// When its last heartbeat arrived.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:30Z")]
    pub last_heartbeat: Option<Utc>,
    /// When the camera software last delivered to it, by the unit's clock.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:29Z")]
    pub camera_last_post: Option<Utc>,
    /// What waits for a receipt; null before the first heartbeat.
    pub backlog: Option<Backlog>,
    /// Its clock less true time in ms, where it knows.
    #[schema(example = -12)]
    pub clock_offset_ms: Option<i64>,
    /// Version of its agent.
    #[schema(example = "0.1.0")]
    pub version: Option<String>,
    /// Its disk; null before the first heartbeat.
    pub disk: Option<Disk>,
}

impl Unit {
    /// What is known of a unit at the time `now`.
    #[must_use]
    pub fn new(row: DeviceRow, now: Utc) -> Self {
        let utc = |ms: Option<i64>| ms.map(Utc::from_millis);
        let standing = row.standing;
        let backlog = standing.backlog_passages.map(|passages| Backlog {
            passages,
            bytes: row.backlog_bytes,
            oldest: utc(standing.backlog_oldest_ms),
            newest: utc(standing.backlog_newest_ms),
            drain_per_min: row.backlog_drain_per_min,
            done_at: utc(row.backlog_done_ms),
        });
        let disk = standing.heartbeat_ms.map(|_| Disk {
            used_bytes: row.disk_used_bytes,
            quota_bytes: row.disk_quota_bytes,
            free_bytes: row.disk_free_bytes,
        });
        Self {
            kvfv_id: row.device,
            state: UnitState::of(&standing, now),
            shard: row.shard,
            first_seen: Utc::from_millis(standing.first_seen_ms),
            last_passage_window: utc(row.last_window_ms),
            final_to: utc(standing.final_to_ms),
            frontier: utc(standing.frontier_ms),
            last_heartbeat: utc(standing.heartbeat_ms),
            camera_last_post: utc(row.camera_last_post_ms),
            backlog,
            clock_offset_ms: row.clock_offset_ms,
            version: row.agent_version,
            disk,
        }
    }
}

/// A page of units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnitPage {
    /// By ascending name.
    pub units: Vec<Unit>,
    /// The `after` of the next page; null on the last.
    #[schema(example = "KV12345")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_state_follows_from_its_last_heartbeat() {
        const SILENT: i64 = 5 * 60_000;
        const CLONED: i64 = 24 * 3_600_000;
        let now = Utc::from_millis(2 * CLONED);
        let state = |heartbeat_ms, cloned_ms| {
            let standing = Standing {
                heartbeat_ms,
                cloned_ms,
                ..Standing::default()
            };
            UnitState::of(&standing, now)
        };
        let ago = |ms| Some(now.as_millis() - ms);
        assert_eq!(state(None, None), UnitState::Unheard);
        assert_eq!(state(ago(SILENT - 1), None), UnitState::Online);
        assert_eq!(state(ago(SILENT), None), UnitState::Silent);
        assert_eq!(state(ago(0), ago(CLONED - 1)), UnitState::Cloned);
        assert_eq!(state(ago(0), ago(CLONED)), UnitState::Online);
    }
}
