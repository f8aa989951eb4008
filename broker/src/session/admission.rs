//! What is made of a CONNECT.

use std::time::Duration;

use crate::identity::Identity;
use crate::packet::{Connect, ConnectCode};

/// The longest keep-alive: what a client that asks for none or for more is held to.
pub const KEEP_ALIVE_S_MAX: u16 = 120;

/// Why a CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefusal {
    /// The client identifier is another name.
    #[error("client identifier is not the name in the certificate")]
    Identifier,
    /// A session that outlives the connection.
    #[error("kept sessions are not offered: set clean session")]
    KeptSession,
    /// A will.
    #[error("wills are not taken")]
    Will,
    /// A user name or password.
    #[error("logins are not taken: the certificate says who you are")]
    Login,
}

impl ConnectRefusal {
    /// The code for the CONNACK.
    #[must_use]
    pub const fn code(self) -> ConnectCode {
        match self {
            Self::Identifier => ConnectCode::Identifier,
            Self::KeptSession | Self::Will | Self::Login => ConnectCode::NotAuthorized,
        }
    }

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Identifier => "identifier",
            Self::KeptSession => "kept_session",
            Self::Will => "will",
            Self::Login => "login",
        }
    }
}

/// Judges a CONNECT against the certificate; returns the keep-alive that is in force.
///
/// # Errors
/// When it asks for what is not given; the client gets the refusal's code.
pub fn admit(connect: &Connect<'_>, identity: &Identity) -> Result<Duration, ConnectRefusal> {
    if connect.client_id != identity.name.as_str() {
        return Err(ConnectRefusal::Identifier);
    }
    if !connect.clean_session {
        return Err(ConnectRefusal::KeptSession);
    }
    if connect.has_will {
        return Err(ConnectRefusal::Will);
    }
    if connect.has_login {
        return Err(ConnectRefusal::Login);
    }
    let seconds = match connect.keep_alive_s {
        0 => KEEP_ALIVE_S_MAX,
        asked => asked.min(KEEP_ALIVE_S_MAX),
    };
    Ok(Duration::from_secs(u64::from(seconds)))
}
