//! How the unit proves itself to the broker, and the broker to the unit.
//!
//! Built anew for each connection, so that renewed certificates are taken over without a restart.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use proto::{DeviceId, EventTime};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use service::tls::{Identity, Role, TimeFloor, TlsError, client_config, load_identity, load_roots};

use crate::config::UplinkConfig;

/// Files that cannot be used to connect.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing or wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is somebody else's.
    #[error(
        "certificate {} is for {found}, but device.id is {wanted}: install the certificate of \
         this unit or correct device.id", path.display()
    )]
    Name {
        /// Which file.
        path: PathBuf,
        /// Its CN.
        found: DeviceId,
        /// The device's name.
        wanted: DeviceId,
    },
    /// The certificate is not a unit's.
    #[error("certificate {} has the role {found}, needed is unit", path.display())]
    Role {
        /// Which file.
        path: PathBuf,
        /// Its OU.
        found: Role,
    },
    /// rustls refuses the roots.
    #[error("roots {}: {problem}", path.display())]
    Roots {
        /// Which file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

/// Where the files are, whose they must be, and when certificates are judged.
#[derive(Debug, Clone)]
pub struct Credentials {
    device: DeviceId,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    server_name: Option<ServerName<'static>>,
    floor: TimeFloor,
}

/// What the files looked like, to notice that they were replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([Option<(SystemTime, u64)>; 3]);

impl Credentials {
    /// The files named in the configuration.
    #[must_use]
    pub fn new(device: &DeviceId, uplink: &UplinkConfig, floor: TimeFloor) -> Self {
        let name = uplink.server_name.clone();
        Self {
            device: device.clone(),
            ca: uplink.ca.clone(),
            certificate: uplink.certificate.clone(),
            key: uplink.key.clone(),
            server_name: name.and_then(|name| ServerName::try_from(name).ok()),
            floor,
        }
    }

    /// Reads the files. Blocks on the disk.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what would be right.
    pub fn load(&self) -> Result<(Identity, ClientConfig), CredentialsError> {
        let identity = load_identity(&self.certificate, &self.key)?;
        if identity.role != Role::Unit {
            let path = self.certificate.clone();
            return Err(CredentialsError::Role {
                path,
                found: identity.role,
            });
        }
        if identity.name != self.device {
            let (path, found) = (self.certificate.clone(), identity.name);
            return Err(CredentialsError::Name {
                path,
                found,
                wanted: self.device.clone(),
            });
        }
        let mut config = client_config(&identity, &self.ca, &self.floor)?;
        if let Some(name) = &self.server_name {
            config
                .dangerous()
                .set_certificate_verifier(self.verifier(name.clone())?);
        }
        Ok((identity, config))
    }

    /// Judges the broker's certificate by another name than the one that was dialled.
    fn verifier(&self, name: ServerName<'static>) -> Result<Arc<NamedVerifier>, CredentialsError> {
        let roots = Arc::new(load_roots(&self.ca)?);
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let verifier = verifier.map_err(|error| CredentialsError::Roots {
            path: self.ca.clone(),
            problem: error.to_string(),
        })?;
        Ok(Arc::new(NamedVerifier { verifier, name }))
    }

    /// Certificates are judged no earlier than at this time of the centre from now on. A time after
    /// the end of the unit's own certificate could only lock the unit out, and is not believed.
    /// Returns whether it is.
    pub fn raise_floor(&self, centre_time: EventTime, not_after: EventTime) -> bool {
        let is_believed = centre_time <= not_after;
        if is_believed {
            self.floor.raise(centre_time.as_millis());
        }
        is_believed
    }

    /// What the files look like now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp([&self.ca, &self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        }))
    }
}

/// The usual verification, under a fixed name.
struct NamedVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl fmt::Debug for NamedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedVerifier")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier
            .verify_server_cert(end_entity, intermediates, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::{ClientConnection, ServerConfig, ServerConnection};
    use service::tls::build_time_ms;

    use super::*;
    use crate::buffer::{Buffer, BufferSettings, QuotaPolicy};

    fn credentials(dir: &Path, cn: &str, ou: &str) -> Credentials {
        let params = CertificateParams::new(vec!["broker".to_owned()]).unwrap();
        credentials_of(dir, cn, ou, params, TimeFloor::new())
    }

    /// One certificate is the unit's, the broker's, and the root.
    fn credentials_of(
        dir: &Path,
        cn: &str,
        ou: &str,
        mut params: CertificateParams,
        floor: TimeFloor,
    ) -> Credentials {
        params.distinguished_name.push(DnType::CommonName, cn);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, ou);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("c.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("k.pem"), key.serialize_pem()).unwrap();
        Credentials {
            device: DeviceId::new("KV1").unwrap(),
            ca: dir.join("c.pem"),
            certificate: dir.join("c.pem"),
            key: dir.join("k.pem"),
            server_name: Some(ServerName::try_from("broker").unwrap()),
            floor,
        }
    }

    #[test]
    fn only_the_units_own_certificate_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, _) = credentials(dir.path(), "KV1", "unit").load().unwrap();
        assert_eq!(identity.name.as_str(), "KV1");
        let other = credentials(dir.path(), "KV2", "unit")
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            other.contains("is for KV2, but device.id is KV1"),
            "{other}"
        );
        let role = credentials(dir.path(), "KV1", "centre")
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            role.contains("has the role centre, needed is unit"),
            "{role}"
        );
    }

    /// Whether a handshake with a broker that has the same certificate succeeds.
    fn connects(credentials: &Credentials) -> Result<(), rustls::Error> {
        let (identity, client) = credentials.load().unwrap();
        let server =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(identity.chain.clone(), identity.key.clone_key())
                .unwrap();
        let name = ServerName::try_from("broker").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    /// What the buffer remembers of the centre's time after a restart.
    fn remembered(dir: &Path, heard: Option<EventTime>) -> Option<EventTime> {
        let settings = BufferSettings {
            device: DeviceId::new("KV1").unwrap(),
            directory: dir.join("buffer"),
            quota_bytes: 1 << 20,
            free_floor_bytes: 0,
            policy: QuotaPolicy::DropOldest,
            linger: Duration::ZERO,
            open_timeout: Duration::from_secs(60),
        };
        let (buffer, owner) = Buffer::open(&settings).unwrap();
        let found = buffer.state().borrow().centre_time;
        heard.into_iter().for_each(|at| buffer.centre_time(at));
        drop(buffer);
        owner.run();
        found
    }

    #[test]
    fn a_unit_that_boots_in_1970_connects_for_it_remembers_the_centres_time() {
        let dir = tempfile::tempdir().unwrap();
        // Renewed after this program was built: its own floor is too low.
        let renewed = SystemTime::UNIX_EPOCH
            + Duration::from_millis(build_time_ms().try_into().unwrap())
            + Duration::from_secs(365 * 86_400);
        let mut params = CertificateParams::new(vec!["broker".to_owned()]).unwrap();
        params.not_before = renewed.into();
        params.not_after = (renewed + Duration::from_secs(90 * 86_400)).into();
        let boot = || {
            let floor = TimeFloor::with_clock(|| 0);
            credentials_of(dir.path(), "KV1", "unit", params.clone(), floor)
        };
        let unit = boot();
        let not_after = unit.load().unwrap().0.not_after.as_millisecond();
        let not_after = EventTime::from_millis(not_after);
        assert!(
            connects(&unit).is_err(),
            "not valid yet, as far as it knows"
        );

        let since = renewed.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let stated = EventTime::from_millis(i64::try_from(since.as_millis()).unwrap() + 60_000);
        assert!(unit.raise_floor(stated, not_after));
        assert_eq!(connects(&unit), Ok(()));
        assert_eq!(remembered(dir.path(), Some(stated)), None);

        let unit = boot();
        let at = remembered(dir.path(), None).unwrap();
        assert!(unit.raise_floor(at, not_after));
        assert_eq!(connects(&unit), Ok(()));
    }

    #[test]
    fn a_time_after_the_end_of_the_units_certificate_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let unit = credentials(dir.path(), "KV1", "unit");
        let before = unit.floor.floor_ms();
        let not_after = EventTime::from_millis(before + 1_000);
        assert!(!unit.raise_floor(EventTime::from_millis(before + 1_001), not_after));
        assert_eq!(unit.floor.floor_ms(), before);
    }

    #[test]
    fn replaced_files_have_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = credentials(dir.path(), "KV1", "unit");
        let before = credentials.stamp();
        assert_eq!(before, credentials.stamp());
        std::fs::write(dir.path().join("k.pem"), "another").unwrap();
        assert_ne!(before, credentials.stamp());
        std::fs::remove_file(dir.path().join("k.pem")).unwrap();
        assert_ne!(before, credentials.stamp());
    }
}
