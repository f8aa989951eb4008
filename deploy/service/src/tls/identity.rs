//! Who a certificate names. Pure.
//!
//! Exactly one CN and one OU in the subject: with two, programs disagree on which one counts, and a
//! certificate could be two people.

use std::fmt;
use std::str::FromStr;

use proto::DeviceId;
use proto::device::DeviceIdError;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::AttributeTypeAndValue;

/// What the owner of a certificate may be; the OU of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A camera unit.
    Unit,
    /// A broker or an aggregator.
    Centre,
    /// A person or program that reads.
    Reader,
}

/// A text that is no [`Role`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role {0:?} is unknown: use unit, centre or reader")]
pub struct UnknownRole(String);

impl Role {
    /// Its text in certificates, configuration and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Centre => "centre",
            Self::Reader => "reader",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "unit" => Ok(Self::Unit),
            "centre" => Ok(Self::Centre),
            "reader" => Ok(Self::Reader),
            other => Err(UnknownRole(other.chars().take(64).collect())),
        }
    }
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The CN. Names of all roles follow the rules of device names: they stand in topics and paths.
    pub name: DeviceId,
    /// The OU.
    pub role: Role,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// A certificate that does not say who its owner is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate, or bytes follow it.
    #[error("not an x.509 certificate: {0}")]
    Der(String),
    /// Not exactly one of this attribute.
    #[error("subject has {count} {attribute} attributes, exactly 1 is needed")]
    Count {
        /// CN or OU.
        attribute: &'static str,
        /// How many there are.
        count: usize,
    },
    /// An attribute that is not text.
    #[error("subject's {0} is not text")]
    Text(&'static str),
    /// The CN is not a name.
    #[error("subject's CN: {0}")]
    Name(#[from] DeviceIdError),
    /// The OU is not a role.
    #[error("subject's OU: {0}")]
    Role(#[from] UnknownRole),
}

/// Reads name and role from a certificate that the TLS layer has already verified.
///
/// # Errors
/// When it is not exactly one certificate whose subject has one CN that is a name and one OU that is
/// a role.
pub fn peer_identity(cert_der: &[u8]) -> Result<PeerIdentity, IdentityError> {
    identity_of(&parse(cert_der)?)
}

/// The same, and until when the certificate is valid, in seconds since 1970.
pub(super) fn identity_and_end(cert_der: &[u8]) -> Result<(PeerIdentity, i64), IdentityError> {
    let certificate = parse(cert_der)?;
    Ok((
        identity_of(&certificate)?,
        certificate.validity().not_after.timestamp(),
    ))
}

fn parse(cert_der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, certificate) =
        parse_x509_certificate(cert_der).map_err(|error| IdentityError::Der(error.to_string()))?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(IdentityError::Der(format!(
            "{} bytes follow it",
            rest.len()
        )))
    }
}

fn identity_of(certificate: &X509Certificate<'_>) -> Result<PeerIdentity, IdentityError> {
    let subject = certificate.subject();
    let name = only(subject.iter_common_name(), "CN")?;
    let role = only(subject.iter_organizational_unit(), "OU")?;
    Ok(PeerIdentity {
        name: DeviceId::new(name)?,
        role: role.parse()?,
    })
}

fn only<'a>(
    mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
    attribute: &'static str,
) -> Result<&'a str, IdentityError> {
    match (attributes.next(), attributes.count()) {
        (Some(value), 0) => value.as_str().map_err(|_| IdentityError::Text(attribute)),
        (None, _) => Err(IdentityError::Count {
            attribute,
            count: 0,
        }),
        (Some(_), more) => Err(IdentityError::Count {
            attribute,
            count: more + 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// A certificate with this subject. rcgen keeps one attribute of a kind, so a second one is
    /// given by its number.
    fn certificate(cn: Option<&str>, ou: Option<&str>, second: Option<&[u64]>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        cn.into_iter()
            .for_each(|cn| name.push(DnType::CommonName, cn));
        ou.into_iter()
            .for_each(|ou| name.push(DnType::OrganizationalUnitName, ou));
        second.into_iter().for_each(|oid| {
            name.push(DnType::CustomDnType(oid.to_vec()), "unit");
        });
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn name_and_role_come_from_cn_and_ou() {
        for role in [Role::Unit, Role::Centre, Role::Reader] {
            let der = certificate(Some("KV12345"), Some(role.as_str()), None);
            let peer = peer_identity(&der).unwrap();
            assert_eq!((peer.name.as_str(), peer.role), ("KV12345", role));
        }
    }

    #[test]
    fn a_subject_that_leaves_a_doubt_is_refused() {
        const CN: &[u64] = &[2, 5, 4, 3];
        const OU: &[u64] = &[2, 5, 4, 11];
        let count = |attribute, count| IdentityError::Count { attribute, count };
        let table = [
            (None, Some("unit"), None, count("CN", 0)),
            (Some("KV1"), None, None, count("OU", 0)),
            (Some("KV1"), Some("unit"), Some(CN), count("CN", 2)),
            (Some("KV1"), Some("unit"), Some(OU), count("OU", 2)),
            (
                Some("KV1"),
                Some("Unit"),
                None,
                UnknownRole("Unit".to_owned()).into(),
            ),
            (
                Some("KV1"),
                Some(""),
                None,
                UnknownRole(String::new()).into(),
            ),
        ];
        for (cn, ou, second, expected) in table {
            assert_eq!(peer_identity(&certificate(cn, ou, second)), Err(expected));
        }
    }

    #[test]
    fn a_name_that_a_topic_could_misread_is_refused() {
        for name in ["", "a/b", "+", "#", "KV 1", "КВ1", &"x".repeat(65)] {
            let refused = peer_identity(&certificate(Some(name), Some("unit"), None));
            assert!(
                matches!(refused, Err(IdentityError::Name(_))),
                "{name:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let mut followed = certificate(Some("KV1"), Some("unit"), None);
        followed.push(0);
        for bytes in [&[][..], b"garbage", &followed] {
            assert!(matches!(peer_identity(bytes), Err(IdentityError::Der(_))));
        }
    }

    #[test]
    fn roles_are_written_as_they_are_read() {
        for role in [Role::Unit, Role::Centre, Role::Reader] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }
}
