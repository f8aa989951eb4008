//! What the centre knows of the units themselves.

use proto::device::DeviceId;
use tokio_postgres::Row;

use super::instant::Instant;
use super::{ReadError, Reader, column};

/// One unit. Times in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its name.
    pub device: String,
    /// Group of units owned together, 0 to 63.
    pub shard: i16,
    /// When the centre first heard of it.
    pub first_seen_ms: i64,
    /// Start of the newest 5-minute window in which it counted a vehicle.
    pub last_window_ms: Option<i64>,
    /// Windows that end by then are final.
    pub final_to_ms: Option<i64>,
    /// Its own statement: everything before this event time has been counted.
    pub frontier_ms: Option<i64>,
    /// When its last heartbeat arrived.
    pub heartbeat_ms: Option<i64>,
    /// When two units last spoke under its name by turns.
    pub cloned_ms: Option<i64>,
    /// When its camera last delivered, by the unit's clock.
    pub camera_last_post_ms: Option<i64>,
    /// Passages that waited for a receipt.
    pub backlog_passages: Option<i64>,
    /// Their logical bytes.
    pub backlog_bytes: Option<i64>,
    /// The oldest event time among them.
    pub backlog_oldest_ms: Option<i64>,
    /// The unit's clock less true time.
    pub clock_offset_ms: Option<i64>,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// Bytes that its buffer takes on disk.
    pub disk_used_bytes: Option<i64>,
    /// Logical bytes that its buffer may hold.
    pub disk_quota_bytes: Option<i64>,
    /// Bytes free on that disk.
    pub disk_free_bytes: Option<i64>,
}

const COLUMNS: &str = "device, shard, first_seen, last_window_start, final_to, frontier, \
                       heartbeat_at, cloned_at, camera_last_post, backlog_passages, \
                       backlog_bytes, backlog_oldest, clock_offset_ms, agent_version, \
                       disk_used_bytes, disk_quota_bytes, disk_free_bytes";

impl Reader {
    /// One unit; none when the centre does not know it.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn device(&self, device: &DeviceId) -> Result<Option<DeviceRow>, ReadError> {
        let statement = format!("SELECT {COLUMNS} FROM v_device WHERE device = $1");
        let rows = self.query(&statement, &[&device.as_str()]).await?;
        rows.first().map(read).transpose()
    }

    /// At most `limit` units by ascending name, those after `after`.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn devices(&self, after: &str, limit: u32) -> Result<Vec<DeviceRow>, ReadError> {
        let statement =
            format!("SELECT {COLUMNS} FROM v_device WHERE device > $1 ORDER BY device LIMIT $2");
        let rows = self.query(&statement, &[&after, &i64::from(limit)]).await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<DeviceRow, ReadError> {
    let instant = |place| Ok(column::<Option<Instant>>(row, place)?.map(|instant| instant.0));
    Ok(DeviceRow {
        device: column(row, 0)?,
        shard: column(row, 1)?,
        first_seen_ms: column::<Instant>(row, 2)?.0,
        last_window_ms: instant(3)?,
        final_to_ms: instant(4)?,
        frontier_ms: instant(5)?,
        heartbeat_ms: instant(6)?,
        cloned_ms: instant(7)?,
        camera_last_post_ms: instant(8)?,
        backlog_passages: column(row, 9)?,
        backlog_bytes: column(row, 10)?,
        backlog_oldest_ms: instant(11)?,
        clock_offset_ms: column(row, 12)?,
        agent_version: column(row, 13)?,
        disk_used_bytes: column(row, 14)?,
        disk_quota_bytes: column(row, 15)?,
        disk_free_bytes: column(row, 16)?,
    })
}
