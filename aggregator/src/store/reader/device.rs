//! What the centre knows of the units themselves.

use proto::device::DeviceId;
use tokio_postgres::Row;

use super::instant::Instant;
use super::standing::{self, Standing};
use super::{ReadError, Reader, column};

/// One unit. Times in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its name.
    pub device: String,
    /// Group of units owned together, 0 to 63.
    pub shard: i16,
    /// Start of the newest 5-minute window in which it counted a vehicle.
    pub last_window_ms: Option<i64>,
    /// When its camera last delivered, by the unit's clock.
    pub camera_last_post_ms: Option<i64>,
    /// Logical bytes of the passages that waited for a receipt.
    pub backlog_bytes: Option<i64>,
    /// Passages by which those that wait became fewer in a minute, below 0 while they became more.
    pub backlog_drain_per_min: Option<i64>,
    /// When none will wait any more if that goes on.
    pub backlog_done_ms: Option<i64>,
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
    /// How it stands.
    pub standing: Standing,
}

const COLUMNS: &str = "device, shard, last_window_start, camera_last_post, backlog_bytes, \
                       clock_offset_ms, agent_version, disk_used_bytes, disk_quota_bytes, \
                       disk_free_bytes, backlog_drain_per_min, backlog_done_at";

/// Where the columns of [`Standing`] begin.
const STANDING: usize = 12;

fn select() -> String {
    format!("SELECT {COLUMNS}, {} FROM v_device", standing::COLUMNS)
}

impl Reader {
    /// One unit; none when the centre does not know it.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn device(&self, device: &DeviceId) -> Result<Option<DeviceRow>, ReadError> {
        let statement = format!("{} WHERE device = $1", select());
        let rows = self.query(&statement, &[&device.as_str()]).await?;
        rows.first().map(read).transpose()
    }

    /// At most `limit` units by ascending name, those after `after`.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn devices(&self, after: &str, limit: u32) -> Result<Vec<DeviceRow>, ReadError> {
        let statement = format!("{} WHERE device > $1 ORDER BY device LIMIT $2", select());
        let rows = self.query(&statement, &[&after, &i64::from(limit)]).await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<DeviceRow, ReadError> {
    let instant = |place| Ok(column::<Option<Instant>>(row, place)?.map(|instant| instant.0));
    Ok(DeviceRow {
        device: column(row, 0)?,
        shard: column(row, 1)?,
        last_window_ms: instant(2)?,
        camera_last_post_ms: instant(3)?,
        backlog_bytes: column(row, 4)?,
        clock_offset_ms: column(row, 5)?,
        agent_version: column(row, 6)?,
        disk_used_bytes: column(row, 7)?,
        disk_quota_bytes: column(row, 8)?,
        disk_free_bytes: column(row, 9)?,
        backlog_drain_per_min: column(row, 10)?,
        backlog_done_ms: instant(11)?,
        standing: Standing::read(row, STANDING)?,
    })
}
