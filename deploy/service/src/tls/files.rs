//! Certificates, keys, roots and revocation lists from PEM files.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use proto::DeviceId;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::identity::identity_and_end;
use super::{Role, TlsError, provider};
use crate::private_file;

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const ROOTS: &str = "roots";
const REVOCATIONS: &str = "revocation lists";

/// Who this program is towards its peers.
pub struct Identity {
    /// Its certificate, then those that lead to a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// When the first certificate of the chain to do so expires.
    pub not_after: Timestamp,
    /// The certificate's CN.
    pub name: DeviceId,
    /// The certificate's OU.
    pub role: Role,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            not_after: self.not_after,
            name: self.name.clone(),
            role: self.role,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("not_after", &self.not_after)
            .field("chain", &self.chain.len())
            .field("key", &"[redacted]")
            .finish()
    }
}

/// Reads a certificate chain and its private key, and checks that they belong together.
///
/// A key file that others may read is used, with a warning: refusing it would take a unit off the
/// road for an operator's slip.
///
/// # Errors
/// When a file cannot be read, holds something else, the key is another certificate's, or the
/// certificate does not name its owner. An expired certificate is no error here: its peers decide.
pub fn load_identity(cert_pem: &Path, key_pem: &Path) -> Result<Identity, TlsError> {
    let chain = load_certificates(CERTIFICATE, cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(&read(KEY, key_pem)?)
        .map_err(|error| content(KEY, key_pem, pem_problem(&error, "a private key")))?;
    private_file::warn_if_open(KEY, key_pem);

    let signing = provider().key_provider.load_private_key(key.clone_key());
    let signing = signing.map_err(|error| content(KEY, key_pem, error.to_string()))?;
    CertifiedKey::new(chain.clone(), signing)
        .keys_match()
        .map_err(|_| {
            content(
                KEY,
                key_pem,
                format!("it is not the key of certificate {}", cert_pem.display()),
            )
        })?;

    let wrong = |source| TlsError::Identity {
        path: cert_pem.to_owned(),
        source,
    };
    let (owner, own_end) = identity_and_end(&chain[0]).map_err(wrong)?;
    let end = chain[1..]
        .iter()
        .filter_map(end_of_issuer)
        .fold(own_end, i64::min);
    let not_after = Timestamp::from_second(end)
        .map_err(|error| content(CERTIFICATE, cert_pem, format!("end of validity: {error}")))?;
    Ok(Identity {
        chain,
        key,
        not_after,
        name: owner.name,
        role: owner.role,
    })
}

/// Reads the certificates under which peers are accepted.
///
/// # Errors
/// When the file cannot be read, has no certificate, or one that cannot be a root.
pub fn load_roots(roots_pem: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (index, root) in load_certificates(ROOTS, roots_pem)?.into_iter().enumerate() {
        store.add(root).map_err(|error| {
            content(
                ROOTS,
                roots_pem,
                format!("certificate {}: {error}", index + 1),
            )
        })?;
    }
    Ok(store)
}

/// Reads revocation lists; a file without any is an error, so that an emptied file does not quietly
/// let everybody in.
///
/// # Errors
/// When the file cannot be read or has no list.
pub fn load_revocations(
    crl_pem: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(REVOCATIONS, crl_pem)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err(content(
            REVOCATIONS,
            crl_pem,
            "it holds no X509 CRL block".to_owned(),
        )),
        Ok(lists) => Ok(lists),
        Err(error) => Err(content(REVOCATIONS, crl_pem, pem_problem(&error, "a list"))),
    }
}

fn load_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(found) if found.is_empty() => Err(content(
            what,
            path,
            "it holds no CERTIFICATE block".to_owned(),
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(content(what, path, pem_problem(&error, "a certificate"))),
    }
}

/// An issuer needs no name of ours; one that cannot be parsed fails at the handshake.
fn end_of_issuer(issuer: &CertificateDer<'_>) -> Option<i64> {
    let parsed = x509_parser::parse_x509_certificate(issuer).ok()?;
    Some(parsed.1.validity().not_after.timestamp())
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

fn content(what: &'static str, path: &Path, problem: String) -> TlsError {
    TlsError::Content {
        what,
        path: path.to_owned(),
        problem,
    }
}

/// Says what is wrong without quoting the file: it may hold a key.
fn pem_problem(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("it holds no PEM block of {wanted}"),
        pem::Error::MissingSectionEnd { .. } => "a PEM block has no end line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => {
            "a PEM block begins with a broken line".to_owned()
        }
        pem::Error::Base64Decode(_) => "a PEM block is not base64".to_owned(),
        _ => format!("it cannot be read as PEM with {wanted}"),
    }
}
