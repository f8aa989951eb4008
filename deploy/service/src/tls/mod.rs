//! TLS from files: one provider, identities, and configurations for both ends.
//!
//! Who somebody is stands in the certificate alone: subject CN = name, OU = role ([`PeerIdentity`]).
//! Units without a battery-backed clock wake up in 1970, so a client judges certificates at
//! max(clock, build time, last centre time) ([`TimeFloor`]).
//!
//! Invariants: both ends present certificates; the only crypto provider is ring; a private key
//! never appears in an error, a log line or a `Debug` text.

mod files;
mod floor;
mod identity;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};

pub use files::{Identity, load_identity, load_revocations, load_roots};
pub use floor::{TimeFloor, build_time_ms};
pub use identity::{IdentityError, PeerIdentity, Role, UnknownRole, peer_identity};

/// Sessions that a client keeps for resumption: it speaks with few servers.
const CLIENT_SESSIONS: usize = 16;
/// Sessions that a server keeps for resumption under TLS 1.2; about 1 KiB each. The oldest goes.
const SERVER_SESSIONS: usize = 4_096;

/// Files or certificates that cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{what} {}: {problem}", path.display())]
    Content {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate does not say who this is.
    #[error("certificate {}: {source}", path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// rustls refuses the parts together.
    #[error("tls configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// rustls refuses the roots or the revocation lists.
    #[error("roots {} with revocation lists: {problem}", path.display())]
    Verifier {
        /// The roots.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Makes ring the process's crypto provider. Call first in `main`; again is harmless.
pub fn install_crypto_provider() {
    // An error says that a provider stands already; there is only one that it can be.
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that shows `identity` and accepts servers under the roots, TLS 1.2 or 1.3, resuming
/// sessions. Certificates are judged at the time that `floor` gives, at each handshake anew.
///
/// # Errors
/// When the roots cannot be used or the identity is refused by rustls.
pub fn client_config(
    identity: &Identity,
    roots_pem: &Path,
    floor: &TimeFloor,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(floor.clone()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(load_roots(roots_pem)?);
    let mut config =
        builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(config)
}

/// A server that shows `identity` and accepts only clients under the roots that are not on the
/// revocation lists, TLS 1.2 or 1.3, resuming sessions. Who the client is, [`peer_identity`] tells.
///
/// Load again and swap to take over new certificates or lists. Resumed sessions keep the verdict of
/// their first handshake: a server must look revocations up itself where that matters, or swap.
///
/// # Errors
/// When the roots, the lists or the identity cannot be used.
pub fn server_config(
    identity: &Identity,
    roots_pem: &Path,
    revocations_pem: Option<&Path>,
) -> Result<ServerConfig, TlsError> {
    let roots = Arc::new(load_roots(roots_pem)?);
    let lists = revocations_pem
        .map(load_revocations)
        .transpose()?
        .unwrap_or_default();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .with_crls(lists)
        .only_check_end_entity_revocation()
        .build()
        .map_err(|error| TlsError::Verifier {
            path: roots_pem.to_owned(),
            problem: error.to_string(),
        })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
    Ok(config)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
