//! Where a server listens, and how a connection comes in.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

/// Owner and group may connect to a unix socket.
const SOCKET_MODE: u32 = 0o660;
/// Connections to it that wait in the kernel for their turn.
pub(super) const UNIX_BACKLOG: u32 = 1_024;

/// A place to listen as written in a configuration: `127.0.0.1:8080` or `unix:/run/verst/agent.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// An address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A text that is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place to listen: use an address like 127.0.0.1:8080 or unix:/path/to.sock")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refuse = || EndpointError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::Unix(path.into())),
            Some(_) => Err(refuse()),
            None => text.parse().map(Self::Tcp).map_err(|_| refuse()),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A place that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program answers there.
    #[error("cannot listen on unix:{}: another program answers there; stop it or choose another path", .0.display())]
    Busy(PathBuf),
    /// Something that is not a socket is in the way, and is left alone.
    #[error("cannot listen on unix:{}: a file that is no socket is in the way; move it", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {endpoint}: {source}")]
    Io {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
}

/// A bound listener.
#[derive(Debug)]
pub enum HttpListener {
    /// Plain HTTP; for loopback addresses and trusted networks.
    Tcp(TcpListener),
    /// HTTP on a unix socket.
    Unix(UnixSocket),
    /// HTTPS. Each handshake uses the newest configuration, so certificates and revocation lists
    /// are replaced without a restart.
    Tls(TcpListener, watch::Receiver<Arc<ServerConfig>>),
}

/// A listening unix socket that takes its file away when dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file was not removed");
        }
    }
}

/// A connection as it came in.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(TcpStream, Arc<ServerConfig>),
}

impl HttpListener {
    /// Binds for plain HTTP.
    ///
    /// A socket file that nobody answers on is taken over; the new one has mode 0660.
    ///
    /// # Errors
    /// When the place is taken or the system refuses.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Io {
            endpoint: endpoint.clone(),
            source,
        };
        match endpoint {
            Endpoint::Tcp(address) => TcpListener::bind(address)
                .await
                .map(Self::Tcp)
                .map_err(refused),
            Endpoint::Unix(path) => {
                clear_stale(path).await?;
                bind_unix(path).map(Self::Unix).map_err(refused)
            }
        }
    }

    /// Binds for HTTPS.
    ///
    /// # Errors
    /// When the place is taken or the system refuses.
    pub async fn bind_tls(
        address: SocketAddr,
        config: watch::Receiver<Arc<ServerConfig>>,
    ) -> Result<Self, ListenError> {
        let endpoint = Endpoint::Tcp(address);
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ListenError::Io { endpoint, source })?;
        Ok(Self::Tls(listener, config))
    }

    /// The bound address with the port that the kernel chose; none for a unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The next connection. Cancel safe.
    pub(super) async fn accept(&mut self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => accept_tcp(listener).await.map(Accepted::Tcp),
            Self::Unix(socket) => Ok(Accepted::Unix(socket.listener.accept().await?.0)),
            Self::Tls(listener, config) => {
                let stream = accept_tcp(listener).await?;
                Ok(Accepted::Tls(stream, config.borrow().clone()))
            }
        }
    }
}

impl fmt::Display for HttpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.local_addr()) {
            (Self::Unix(socket), _) => write!(f, "unix:{}", socket.path.display()),
            (Self::Tls(..), Some(address)) => write!(f, "https://{address}"),
            (_, Some(address)) => write!(f, "http://{address}"),
            (_, None) => f.write_str("an unknown address"),
        }
    }
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // Small answers must not wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY: the peer is gone already");
    }
    Ok(stream)
}

/// Nobody is listened to before the mode is set: whatever the umask, there is no moment at which
/// others may connect.
fn bind_unix(path: &Path) -> io::Result<UnixSocket> {
    let socket = tokio::net::UnixSocket::new_stream()?;
    socket.bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(UnixSocket {
        listener: socket.listen(UNIX_BACKLOG)?,
        path: path.to_owned(),
    })
}

/// Removes the socket of a program that died. One that answers, or another kind of file, stays.
async fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let refused = |source| ListenError::Io {
        endpoint: Endpoint::Unix(path.to_owned()),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(refused)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Answers, is full, or may not be asked: in each case somebody may live there.
        _ => Err(ListenError::Busy(path.to_owned())),
    }
}
