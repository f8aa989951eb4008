//! A certificate authority for the tests of this crate.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use tempfile::TempDir;

use super::{Identity, Role, build_time_ms, load_identity};

pub(crate) const DAY_MS: i64 = 86_400_000;

/// An authority whose files live as long as it.
pub(crate) struct Pki {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate.
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("roots.pem"), root.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.path("roots.pem")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Valid from the day before the build for thirty years.
    pub(crate) fn identity(&self, name: &str, role: Role) -> Identity {
        let files = self.issue(name, role, -DAY_MS, 30 * 365 * DAY_MS);
        load_identity(&files.cert, &files.key).unwrap()
    }

    /// A certificate valid between two times relative to the build.
    pub(crate) fn issue(&self, name: &str, role: Role, from_ms: i64, to_ms: i64) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role.as_str());
        params.not_before = at(from_ms).into();
        params.not_after = at(to_ms).into();
        params.serial_number = Some(serial_of(name));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        std::fs::write(&files.cert, cert.pem()).unwrap();
        crate::private_file::write(&files.key, key.serialize_pem().as_bytes()).unwrap();
        files
    }

    /// A list that revokes every certificate of these names.
    pub(crate) fn revoke(&self, names: &[&str]) -> PathBuf {
        let revoked_certs = names.iter().map(|name| RevokedCertParams {
            serial_number: serial_of(name),
            revocation_time: at(0).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: at(0).into(),
            next_update: at(30 * 365 * DAY_MS).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.path("revoked.pem");
        std::fs::write(
            &path,
            params.signed_by(&self.issuer).unwrap().pem().unwrap(),
        )
        .unwrap();
        path
    }
}

fn at(since_build_ms: i64) -> SystemTime {
    let ms = u64::try_from(build_time_ms() + since_build_ms).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn serial_of(name: &str) -> SerialNumber {
    SerialNumber::from_slice(name.as_bytes())
}

/// Writes a file for a test that wants a broken one.
pub(crate) fn broken(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("broken.pem");
    std::fs::write(&path, text).unwrap();
    path
}
