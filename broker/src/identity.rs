//! Who is at the other end: what a verified client certificate says.
//!
//! Between the handshake and everything else: rights, client identifier and revocation hang on
//! this. Name and role are read by [`service::tls::peer_identity`]; the serial number is added so
//! that a certificate that is revoked later can be found among the live connections.
//!
//! Pure.

use std::fmt;

use proto::DeviceId;
pub use service::tls::Role;
use service::tls::{IdentityError, peer_identity};
use x509_parser::parse_x509_certificate;

/// Which certificate: unique among all that one authority issued.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateId {
    /// The issuer's name, DER.
    pub issuer: Vec<u8>,
    /// The serial number, big-endian, as it stands in the certificate.
    pub serial: Vec<u8>,
}

/// The owner of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's CN; also the only client identifier it may use.
    pub name: DeviceId,
    /// The certificate's OU.
    pub role: Role,
    /// The certificate itself.
    pub certificate: CertificateId,
    /// Until when it is valid, in seconds since 1970.
    pub not_after_s: i64,
}

impl Identity {
    /// Reads a certificate that the TLS layer has verified.
    ///
    /// # Errors
    /// When it does not name exactly one owner with exactly one role.
    pub fn of(certificate_der: &[u8]) -> Result<Self, IdentityError> {
        let peer = peer_identity(certificate_der)?;
        let (_, certificate) = parse_x509_certificate(certificate_der)
            .map_err(|error| IdentityError::Der(error.to_string()))?;
        Ok(Self {
            name: peer.name,
            role: peer.role,
            certificate: CertificateId {
                issuer: certificate.issuer().as_raw().to_vec(),
                serial: certificate.raw_serial().to_vec(),
            },
            not_after_s: certificate.validity().not_after.timestamp(),
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: &str, role: Role) -> Self {
        let certificate = CertificateId {
            issuer: vec![],
            serial: name.as_bytes().to_vec(),
        };
        Self {
            name: DeviceId::new(name).unwrap(),
            role,
            certificate,
            not_after_s: i64::MAX,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}
