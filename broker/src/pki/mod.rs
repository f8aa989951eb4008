//! A certificate authority in a folder: for the demo, for tests, and for fleets without a PKI.
//!
//! Not on the data path. The folder holds `ca.pem`, `ca.key` (mode 0600), [`index`] (what was issued
//! and revoked) and `crl.pem`. Keys are ECDSA P-256. Who a certificate names: CN = name, OU = role.
//!
//! Invariants: a certificate is in the index before its file exists, so everything that exists can
//! be revoked by name; serial numbers are 127 random bits; one process at a time works on a folder.

mod files;
pub mod index;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use proto::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use service::private_file;
use service::tls::Role;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::parse_x509_pem;

use files::{at, make_folder, read, replace, write_public};
use index::{Entry, Index};

/// The authority's certificate.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's private key.
pub const CA_KEY: &str = "ca.key";
/// The revocation list.
pub const CRL: &str = "crl.pem";
/// The folder of issued certificates, unless another is named.
pub const ISSUED: &str = "issued";

/// The mode of private keys, and of everything else.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const FOLDER: u32 = 0o755;
const DAY: Duration = Duration::from_hours(24);
/// How far back a validity begins: clocks of units may be behind.
const CLOCK_SLACK: Duration = Duration::from_hours(1);
/// When a list promises its successor. The broker takes an older one, too: a forgotten renewal must
/// not stop a fleet.
const CRL_DAYS: u32 = 365;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// A camera unit: a client.
    Unit,
    /// An aggregator: a client, and with `--san` also a server.
    Centre,
    /// Somebody who watches: a client.
    Reader,
    /// The broker itself: a server, never a client. Its OU is `centre`.
    Server,
}

impl Purpose {
    /// The role in the certificate's OU.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Unit => Role::Unit,
            Self::Centre | Self::Server => Role::Centre,
            Self::Reader => Role::Reader,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Centre => "centre",
            Self::Reader => "reader",
            Self::Server => "server",
        }
    }
}

/// Something that the authority refuses or cannot do.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A private file.
    #[error(transparent)]
    Private(#[from] private_file::PrivateFileError),
    /// `init` over an authority.
    #[error("{} exists: an authority is never overwritten, choose another folder", .0.display())]
    Exists(PathBuf),
    /// A file of the authority that is not what it should be.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name was issued before.
    #[error("{0} has a certificate already: use --renew to issue another one")]
    Taken(DeviceId),
    /// A name was issued for something else.
    #[error("{name} was issued as {before}: a name keeps its role, choose another name")]
    OtherPurpose {
        /// The name.
        name: DeviceId,
        /// What it was issued as.
        before: String,
    },
    /// A server that nobody could verify.
    #[error(
        "a server certificate needs at least one --san: the host name or address of clients' configuration"
    )]
    NoSan,
    /// A name or address that cannot stand in a certificate.
    #[error("subject alternative name {0:?} is neither a host name nor an ip address")]
    San(String),
    /// Nothing to revoke.
    #[error("neither a name nor a serial number of a certificate in force: {0}")]
    Unknown(String),
    /// Certificates could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system has no random numbers.
    #[error("random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What for.
    pub purpose: Purpose,
    /// Host names and addresses of a server.
    pub san: Vec<String>,
    /// Days of validity; it ends with the authority's at the latest.
    pub days: u32,
    /// Whether names that have a certificate get another one. The old one stays in force until it
    /// is revoked.
    pub renew: bool,
}

/// An authority, opened by this process alone.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    end_ms: i64,
    index: Index,
}

/// Makes an authority in `folder`, with an empty revocation list.
///
/// # Errors
/// When there is one already, or a file cannot be written.
pub fn init(folder: &Path, name: &str, days: u32, now_ms: i64) -> Result<(), PkiError> {
    make_folder(folder)?;
    for file in [CA_CERTIFICATE, CA_KEY, index::FILE] {
        let path = folder.join(file);
        if path.exists() {
            return Err(PkiError::Exists(path));
        }
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    valid(&mut params, now_ms, now_ms.saturating_add(days_ms(days)));
    let certificate = params.self_signed(&key)?;
    private_file::write(&folder.join(CA_KEY), key.serialize_pem().as_bytes())?;
    write_public(&folder.join(CA_CERTIFICATE), &certificate.pem())?;
    Authority::open(folder)?.write_crl(now_ms)
}

impl Authority {
    /// Opens the authority in `folder`; waits while another process works on it.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let key_path = folder.join(CA_KEY);
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|error| PkiError::Damaged {
            path: key_path,
            problem: error.to_string(),
        })?;
        let path = folder.join(CA_CERTIFICATE);
        let pem = read(&path)?;
        let damaged = |problem: String| PkiError::Damaged {
            path: path.clone(),
            problem,
        };
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let (_, certificate) =
            parse_x509_certificate(&block.contents).map_err(|e| damaged(e.to_string()))?;
        if certificate.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(damaged(format!("its key is not {CA_KEY}")));
        }
        let end_ms = certificate
            .validity()
            .not_after
            .timestamp()
            .saturating_mul(1_000);
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        let index = Index::open(&folder.join(index::FILE))?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
            end_ms,
            index,
        })
    }

    /// Issues a certificate and key for each name: `NAME.pem` and `NAME.key` in `out`.
    ///
    /// # Errors
    /// When one name is refused, before anything is written; or when a file cannot be written.
    pub fn issue(
        &mut self,
        names: &[DeviceId],
        order: &Order,
        out: &Path,
        now_ms: i64,
    ) -> Result<(), PkiError> {
        if order.purpose == Purpose::Server && order.san.is_empty() {
            return Err(PkiError::NoSan);
        }
        let purpose = order.purpose.label();
        let mut fresh = std::collections::HashSet::new();
        for name in names {
            if let Some(before) = self
                .index
                .purpose_of(name)
                .filter(|before| *before != purpose)
            {
                let before = before.to_owned();
                return Err(PkiError::OtherPurpose {
                    name: name.clone(),
                    before,
                });
            }
            if !fresh.insert(name) || (!order.renew && self.index.in_force(name)) {
                return Err(PkiError::Taken(name.clone()));
            }
        }
        let end_ms = now_ms.saturating_add(days_ms(order.days)).min(self.end_ms);
        let mut made = Vec::with_capacity(names.len());
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let serial = random_serial()?;
            let key = KeyPair::generate()?;
            let params = leaf(name, order, &serial, now_ms, end_ms)?;
            made.push((
                name,
                params.signed_by(&key, &self.issuer)?.pem(),
                key.serialize_pem(),
            ));
            entries.push(Entry::Issued {
                serial: index::hex(&serial),
                name: name.clone(),
                purpose: purpose.to_owned(),
                at_ms: now_ms,
                end_ms,
            });
        }
        self.index.append(entries)?;
        make_folder(out)?;
        for (name, certificate, key) in made {
            replace(&out.join(format!("{name}.key")), &key, PRIVATE)?;
            replace(&out.join(format!("{name}.pem")), &certificate, PUBLIC)?;
        }
        // Once for all of them: a sync for each of a thousand units would take many seconds.
        let synced = File::open(out).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(at(out))
    }

    /// Revokes all certificates of a name, or the one of a serial number, and writes the list.
    /// Returns how many were in force.
    ///
    /// # Errors
    /// When none is in force under that name or number.
    pub fn revoke(&mut self, name_or_serial: &str, now_ms: i64) -> Result<usize, PkiError> {
        let serials = self.index.serials_in_force(name_or_serial);
        if serials.is_empty() {
            return Err(PkiError::Unknown(name_or_serial.to_owned()));
        }
        let count = serials.len();
        let entries = serials.into_iter().map(|serial| Entry::Revoked {
            serial,
            at_ms: now_ms,
        });
        self.index.append(entries.collect())?;
        self.write_crl(now_ms)?;
        Ok(count)
    }

    /// Writes the revocation list anew.
    ///
    /// # Errors
    /// When it cannot be signed or written.
    pub fn write_crl(&self, now_ms: i64) -> Result<(), PkiError> {
        let revoked_certs = self
            .index
            .revoked()
            .map(|(serial, at_ms)| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: moment(at_ms).into(),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        let list = CertificateRevocationListParams {
            this_update: moment(now_ms).into(),
            next_update: moment(now_ms.saturating_add(days_ms(CRL_DAYS))).into(),
            crl_number: SerialNumber::from(u64::try_from(now_ms).unwrap_or_default()),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        write_public(
            &self.folder.join(CRL),
            &list.signed_by(&self.issuer)?.pem()?,
        )
    }
}

fn leaf(
    name: &DeviceId,
    order: &Order,
    serial: &[u8],
    now_ms: i64,
    end_ms: i64,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, name.as_str());
    params.distinguished_name.push(
        DnType::OrganizationalUnitName,
        order.purpose.role().as_str(),
    );
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if order.purpose != Purpose::Server {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if !order.san.is_empty() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    for san in &order.san {
        params.subject_alt_names.push(subject_alt_name(san)?);
    }
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now_ms, end_ms);
    Ok(params)
}

fn subject_alt_name(text: &str) -> Result<SanType, PkiError> {
    let refuse = || PkiError::San(text.to_owned());
    if let Ok(address) = text.parse() {
        return Ok(SanType::IpAddress(address));
    }
    rustls_pki_types::DnsName::try_from(text).map_err(|_| refuse())?;
    Ok(SanType::DnsName(text.try_into().map_err(|_| refuse())?))
}

fn valid(params: &mut CertificateParams, now_ms: i64, end_ms: i64) {
    params.not_before = (moment(now_ms) - CLOCK_SLACK).into();
    params.not_after = moment(end_ms).into();
}

fn moment(ms: i64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

fn days_ms(days: u32) -> i64 {
    i64::try_from((DAY * days).as_millis()).unwrap_or(i64::MAX)
}

/// 16 bytes: positive in DER, and without a leading zero that some tools drop.
fn random_serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// Nobody else may put another file in the place of one in it, whatever the umask.
#[cfg(test)]
mod tests;
