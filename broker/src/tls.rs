//! The listener's certificates, and their replacement while connections live.
//!
//! Invariants: a set of files is taken over whole or not at all (a key that does not fit its
//! certificate yet leaves the old set in force); sessions are never resumed, because a resumed one
//! would keep the verdict of its first handshake past a revocation or an expiry; after a reload no
//! live connection has a revoked certificate.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use service::clock::wall_millis;
use service::tls::{TlsError, load_identity, load_revocations, server_config};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use x509_parser::parse_x509_crl;

use crate::config::ListenSettings;
use crate::identity::CertificateId;
use crate::metrics::Metrics;
use crate::names::Names;

/// One loaded set of files.
#[derive(Debug)]
pub struct Certificates {
    /// For handshakes.
    pub server: Arc<ServerConfig>,
    /// When the broker's own certificate ends, in seconds since 1970.
    pub end_s: i64,
    revoked: HashSet<CertificateId>,
}

impl Certificates {
    /// Loads the four files.
    ///
    /// # Errors
    /// When one cannot be used, or they do not fit together.
    pub fn load(listen: &ListenSettings) -> Result<Self, TlsError> {
        let identity = load_identity(&listen.certificate, &listen.key)?;
        let crl = listen.crl.as_deref();
        let mut server = server_config(&identity, &listen.client_ca, crl)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let revoked = crl.map(revocations).transpose()?.unwrap_or_default();
        let end_s = identity.not_after.as_second();
        Ok(Self {
            server: Arc::new(server),
            end_s,
            revoked,
        })
    }

    /// Whether a certificate stands on a list.
    #[must_use]
    pub fn is_revoked(&self, certificate: &CertificateId) -> bool {
        self.revoked.contains(certificate)
    }
}

fn revocations(path: &Path) -> Result<HashSet<CertificateId>, TlsError> {
    let mut revoked = HashSet::new();
    for list in load_revocations(path)? {
        let (_, list) = parse_x509_crl(&list).map_err(|error| TlsError::Content {
            what: "revocation lists",
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
        let overdue = |end: x509_parser::time::ASN1Time| end.timestamp() < wall_millis() / 1_000;
        if list.next_update().is_some_and(overdue) {
            // In force all the same: a forgotten renewal must not stop a fleet.
            let path = path.display();
            tracing::warn!(%path, "revocation list is overdue: run broker pki crl, or fetch a new one");
        }
        let issuer = list.issuer().as_raw().to_vec();
        revoked.extend(list.iter_revoked_certificates().map(|entry| CertificateId {
            issuer: issuer.clone(),
            serial: entry.raw_serial().to_vec(),
        }));
    }
    Ok(revoked)
}

/// Looks at the files, and takes over what has changed, until the stop. `now` asks for a look at
/// once, whether or not a file has changed.
pub async fn keep_fresh(
    listen: ListenSettings,
    current: watch::Sender<Arc<Certificates>>,
    names: Names,
    metrics: Metrics,
    now: Arc<Notify>,
    stop: CancellationToken,
) {
    let interval = Duration::from_secs(listen.reload_interval_s);
    let mut seen = footprint(&listen);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            asked = timeout(interval, now.notified()) => asked.is_ok(),
        };
        let footprint = footprint(&listen);
        if !asked && footprint == seen {
            continue;
        }
        // A failure is reported once for each state of the files.
        seen = footprint;
        match Certificates::load(&listen) {
            Ok(loaded) => {
                metrics.reloads.inc();
                metrics.certificate_end_s.set(loaded.end_s);
                let loaded = Arc::new(loaded);
                current.send_replace(loaded.clone());
                // After the swap, so that nobody slips in between under the old list.
                let ended = names.end_revoked(|certificate| loaded.is_revoked(certificate));
                tracing::info!(
                    ended,
                    revoked = loaded.revoked.len(),
                    "certificates loaded anew"
                );
            }
            Err(error) => {
                metrics.reload_failures.inc();
                tracing::error!(%error, "certificates cannot be loaded, the old ones stay in force");
            }
        }
    }
}

/// What tells one state of the files from the next.
fn footprint(listen: &ListenSettings) -> Vec<Option<(SystemTime, u64)>> {
    let files = [&listen.certificate, &listen.key, &listen.client_ca];
    let files = files.into_iter().chain(listen.crl.as_ref());
    files
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}
