//! A throw-away certificate authority, made by `broker pki` as an operator would.

use std::path::{Path, PathBuf};

pub use broker::pki::PkiError;
use broker::pki::{Authority, Order, Purpose};
use proto::DeviceId;

use crate::clock;
use crate::process::{Launch, RunError};
use crate::programs::Programs;

/// The name under which clients know the broker; it stands in its certificate.
pub const BROKER_HOST: &str = "localhost";
const DAY_MS: i64 = 86_400_000;

/// An authority in a directory; certificates lie beside it as `NAME.pem` and `NAME.key`.
#[derive(Debug, Clone)]
pub struct Pki {
    directory: PathBuf,
    broker: PathBuf,
}

impl Pki {
    /// Makes one, with the broker's own certificate (`broker`).
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn create(programs: &Programs, directory: &Path) -> Result<Self, RunError> {
        let pki = Self {
            directory: directory.to_owned(),
            broker: programs.broker(),
        };
        pki.run("init").run()?;
        pki.issue(
            "server",
            &["broker"],
            &["--san", BROKER_HOST, "--san", "127.0.0.1"],
        )?;
        Ok(pki)
    }

    /// Issues certificates to units.
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn units(&self, names: &[&str]) -> Result<(), RunError> {
        if names.is_empty() {
            Ok(())
        } else {
            self.issue("unit", names, &[])
        }
    }

    /// Revokes what a name has.
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn revoke(&self, name: &str) -> Result<(), RunError> {
        self.run("revoke").arg(name).run().map(drop)
    }

    /// Issues a unit another certificate.
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn renew_unit(&self, name: &str) -> Result<(), RunError> {
        self.issue("unit", &[name], &["--renew"])
    }

    /// Issues a unit another certificate, which ended so long ago. `broker pki` has no such order.
    ///
    /// # Errors
    /// The authority cannot be opened or refuses.
    pub fn expired_unit(&self, name: &str, ago_ms: i64) -> Result<(), PkiError> {
        let order = Order {
            purpose: Purpose::Unit,
            san: Vec::new(),
            days: 1,
            renew: true,
        };
        let now_ms = clock::unix_ms() - DAY_MS - ago_ms;
        let names = [DeviceId::new(name).map_err(|_| PkiError::Unknown(name.to_owned()))?];
        Authority::open(&self.directory)?.issue(&names, &order, &self.directory, now_ms)
    }

    /// Issues a certificate to an aggregator.
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn centre(&self, name: &str) -> Result<(), RunError> {
        self.issue(
            "centre",
            &[name],
            &["--san", BROKER_HOST, "--san", "127.0.0.1"],
        )
    }

    /// Issues a certificate to somebody who may only read.
    ///
    /// # Errors
    /// What `broker pki` says.
    pub fn reader(&self, name: &str) -> Result<(), RunError> {
        self.issue("reader", &[name], &[])
    }

    /// The directory of all of it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The revocation list.
    #[must_use]
    pub fn crl(&self) -> PathBuf {
        self.directory.join("crl.pem")
    }

    /// Somebody's certificate.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Somebody's private key.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    fn run(&self, command: &str) -> Launch {
        Launch::new("broker pki", &self.broker, "/dev/null")
            .args(["pki", command, "--dir"])
            .arg(&self.directory)
    }

    fn issue(&self, role: &str, names: &[&str], options: &[&str]) -> Result<(), RunError> {
        let order = self
            .run("issue")
            .arg("--out")
            .arg(&self.directory)
            .args(["--role", role]);
        order.args(options).args(names).run().map(drop)
    }
}
