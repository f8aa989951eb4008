//! From the accept to the first packet: TLS, the certificate, CONNECT.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Gate;
use crate::identity::Identity;
use crate::metrics::{HandshakeFailure, Kind};
use crate::packet::{self, ConnectCode, Packet, PacketError};
use crate::session::{ConnectRefusal, admit};

/// The first byte of a CONNECT.
const CONNECT: u8 = 0x10;
/// The first packet, at most: CONNECT with a name of 64 bytes has 78.
const CONNECT_BYTES_MAX: usize = 1_024;

/// A client whose first packet was a CONNECT.
pub(super) struct Arrived {
    pub(super) stream: TlsStream<TcpStream>,
    /// What came after the CONNECT.
    pub(super) inbox: BytesMut,
    pub(super) identity: Identity,
    /// Of its CONNECT: the keep-alive that is in force.
    pub(super) verdict: Result<Duration, ConnectRefusal>,
}

/// A client that did not come so far.
pub(super) struct Failure {
    pub(super) reason: HandshakeFailure,
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn plain(reason: HandshakeFailure) -> Self {
        Self {
            reason,
            detail: String::new(),
        }
    }

    fn new(reason: HandshakeFailure, error: &dyn std::error::Error) -> Self {
        Self {
            reason,
            detail: error.to_string(),
        }
    }
}

impl Gate {
    /// TLS, certificate, and the first packet.
    pub(super) async fn arrive(&self, stream: TcpStream) -> Result<Arrived, Failure> {
        // Without it small packets wait for the acknowledgement of those before them.
        stream
            .set_nodelay(true)
            .map_err(|error| Failure::new(HandshakeFailure::Lost, &error))?;
        let server = self.certificates.borrow().server.clone();
        let mut stream = TlsAcceptor::from(server)
            .accept(stream)
            .await
            .map_err(|error| Failure::new(HandshakeFailure::Tls, &error))?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let certificate = certificate.ok_or(Failure::plain(HandshakeFailure::Identity))?;
        let identity = Identity::of(certificate)
            .map_err(|error| Failure::new(HandshakeFailure::Identity, &error))?;
        let mut inbox = BytesMut::with_capacity(CONNECT_BYTES_MAX);
        let frame = loop {
            if inbox.first().is_some_and(|first| *first != CONNECT) {
                let detail = "the first packet is not CONNECT".to_owned();
                return Err(Failure {
                    reason: HandshakeFailure::Packet,
                    detail,
                });
            }
            let found = packet::frame(&inbox, CONNECT_BYTES_MAX);
            match found.map_err(|error| Failure::new(HandshakeFailure::Packet, &error))? {
                Some(frame) => break frame,
                None => match stream.read_buf(&mut inbox).await {
                    Ok(0) => return Err(Failure::plain(HandshakeFailure::Lost)),
                    Ok(_) => {}
                    Err(error) => return Err(Failure::new(HandshakeFailure::Lost, &error)),
                },
            }
        };
        let first = inbox.split_to(frame.len);
        let verdict = match frame.read(&first) {
            Ok(Packet::Connect(connect)) => admit(&connect, &identity),
            Ok(_) => {
                let detail = "the first packet is not CONNECT".to_owned();
                return Err(Failure {
                    reason: HandshakeFailure::Packet,
                    detail,
                });
            }
            Err(error @ PacketError::Protocol) => {
                self.metrics.received.packet(Kind::Connect);
                self.refuse(stream, ConnectCode::Protocol).await;
                return Err(Failure::new(HandshakeFailure::Packet, &error));
            }
            Err(error) => return Err(Failure::new(HandshakeFailure::Packet, &error)),
        };
        self.metrics.received.packet(Kind::Connect);
        Ok(Arrived {
            stream,
            inbox,
            identity,
            verdict,
        })
    }
}
