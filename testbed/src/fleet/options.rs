//! What a fleet is and does.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::DeviceId;

use super::Recorder;
use super::traffic::{Day, Road};
use super::unit::{Habits, Plates};

/// Where a unit's certificate is.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whom it trusts, PEM.
    pub roots: PathBuf,
}

impl Credentials {
    /// As `broker pki` lays them out in its directory.
    #[must_use]
    pub fn in_dir(pki_dir: &Path, device: &DeviceId) -> Self {
        Self {
            cert: pki_dir.join(format!("{device}.pem")),
            key: pki_dir.join(format!("{device}.key")),
            roots: pki_dir.join("ca.pem"),
        }
    }
}

/// Where units find their broker and their certificates.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// The broker's address.
    pub broker: SocketAddr,
    /// The name that its certificate must bear.
    pub server_name: String,
    /// Where `broker pki` put the certificates of all units.
    pub pki_dir: PathBuf,
}

/// A fleet that posts live traffic.
#[derive(Clone)]
pub struct FleetOptions {
    /// The units, for each of which the directory holds a certificate.
    pub units: Vec<DeviceId>,
    /// Where they connect.
    pub uplink: Uplink,
    /// The road in front of each, its rate included.
    pub road: Road,
    /// How long a passage waits for company; the agent's default is 250 ms.
    pub linger_ms: i64,
    /// Passages in a batch, at most.
    pub batch_passages: usize,
    /// Passages without a receipt that a unit holds, at most; beyond, it posts nothing.
    pub backlog_passages_max: u64,
    /// How late a camera may deliver; windows turn final so long after their end.
    pub camera_delay_max_ms: i64,
    /// What units do with plates.
    pub plates: Plates,
    /// Seed of traffic and jitter; streams are random always.
    pub seed: u64,
    /// Sees everything that is posted.
    pub recorder: Option<Recorder>,
}

impl FleetOptions {
    /// With the agent's defaults, plates hashed, on motorways with an even flow.
    #[must_use]
    pub fn new(
        units: Vec<DeviceId>,
        rate_per_unit: f64,
        broker: SocketAddr,
        server_name: &str,
        pki_dir: &Path,
    ) -> Self {
        Self {
            units,
            uplink: Uplink {
                broker,
                server_name: server_name.to_owned(),
                pki_dir: pki_dir.to_owned(),
            },
            road: Road {
                day: Day::Even,
                ..Road::motorway(rate_per_unit)
            },
            linger_ms: 250,
            batch_passages: 500,
            backlog_passages_max: 20_000,
            camera_delay_max_ms: 24 * 3_600_000,
            plates: Plates::Hashed,
            seed: 1,
            recorder: None,
        }
    }

    /// How each unit behaves.
    #[must_use]
    pub fn habits(&self, unit: usize) -> Habits {
        Habits {
            linger_ms: self.linger_ms,
            batch_passages: self.batch_passages,
            backlog_passages_max: self.backlog_passages_max,
            camera_delay_max_ms: self.camera_delay_max_ms,
            plates: self.plates,
            seed: self.seed.wrapping_mul(1_000_003).wrapping_add(unit as u64),
        }
    }
}

impl fmt::Debug for FleetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetOptions")
            .field("units", &self.units.len())
            .field("uplink", &self.uplink)
            .field("road", &self.road)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
