//! A client that sends whatever bytes it is given, with the certificate of a stolen unit.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use proto::frame::Down;
use proto::{DeviceId, Shard, topic};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use service::tls::{TimeFloor, client_config, load_identity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::mqtt::{self, Packet};
use crate::pki::{BROKER_HOST, Pki};

/// An answer, a handshake or a write that takes longer does not come.
pub(super) const WITHIN: Duration = Duration::from_secs(60);
const KEEP_ALIVE_S: u16 = 120;

/// One stolen identity: connects as often as wanted.
#[derive(Clone)]
pub(super) struct Thief {
    pub(super) device: DeviceId,
    broker: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Thief {
    pub(super) fn new(pki: &Pki, broker: SocketAddr, device: &DeviceId) -> Result<Self> {
        let name = device.as_str();
        let identity = load_identity(&pki.certificate(name), &pki.key(name))?;
        let mut config = client_config(&identity, &pki.ca(), &TimeFloor::new())?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            device: device.clone(),
            broker,
            config: Arc::new(config),
        })
    }

    /// TLS, and nothing said yet.
    pub(super) async fn tls(&self) -> io::Result<Raw> {
        let connecting = async {
            let socket = TcpStream::connect(self.broker).await?;
            socket.set_nodelay(true)?;
            let host = ServerName::try_from(BROKER_HOST).map_err(io::Error::other)?;
            TlsConnector::from(self.config.clone())
                .connect(host, socket)
                .await
        };
        let tls = timeout(WITHIN, connecting)
            .await
            .map_err(io::Error::other)??;
        Ok(Raw {
            tls,
            received: BytesMut::new(),
        })
    }

    /// The answer to CONNECT under its own name.
    pub(super) async fn connect(&self) -> io::Result<(Raw, Option<u8>)> {
        let mut raw = self.tls().await?;
        let mut out = BytesMut::new();
        mqtt::put_connect(&mut out, self.device.as_str(), KEEP_ALIVE_S);
        raw.send(&out).await?;
        let code = match raw.packet().await {
            Some(Packet::ConnAck(code)) => Some(code),
            _ => None,
        };
        Ok((raw, code))
    }

    /// Connected, and subscribed as a unit does.
    pub(super) async fn unit(&self) -> Result<Raw> {
        let (mut raw, code) = self.connect().await?;
        if code != Some(0) {
            bail!("{} is not let in: {code:?}", self.device);
        }
        let (down, beacon) = (
            topic::down(&self.device),
            topic::beacon(Shard::of(&self.device)),
        );
        let mut out = BytesMut::new();
        mqtt::put_subscribe(&mut out, 1, &[&down, &beacon]);
        raw.send(&out).await?;
        loop {
            match raw.packet().await.context("closed while subscribing")? {
                Packet::SubAck(true) => return Ok(raw),
                Packet::Publish { .. } => {}
                other => bail!("expected SUBACK, got {other:?}"),
            }
        }
    }
}

/// A connection.
pub(super) struct Raw {
    tls: TlsStream<TcpStream>,
    received: BytesMut,
}

impl Raw {
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sending = async {
            self.tls.write_all(bytes).await?;
            self.tls.flush().await
        };
        timeout(WITHIN, sending).await.map_err(io::Error::other)?
    }

    /// A message under its own topic.
    pub(super) async fn publish(&mut self, device: &DeviceId, frame: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        mqtt::put_publish(&mut out, &topic::up(device), 1, frame);
        self.send(&out).await
    }

    /// The next packet; none at the end of the connection or of patience.
    pub(super) async fn packet(&mut self) -> Option<Packet> {
        self.packet_within(WITHIN).await
    }

    /// The same with a patience of its own.
    pub(super) async fn packet_within(&mut self, within: Duration) -> Option<Packet> {
        loop {
            match mqtt::take_packet(&mut self.received) {
                Ok(Some(packet)) => return Some(packet),
                Ok(None) => {}
                Err(_) => return None,
            }
            match timeout(within, self.tls.read_buf(&mut self.received)).await {
                Ok(Ok(count)) if count > 0 => {}
                _ => return None,
            }
        }
    }

    /// The next message of the centre to this unit; none at the end.
    pub(super) async fn heard(&mut self, within: Duration) -> Option<Down> {
        loop {
            if let Packet::Publish {
                topic,
                acknowledge,
                payload,
            } = self.packet_within(within).await?
            {
                if let Some(id) = acknowledge {
                    let mut out = BytesMut::new();
                    mqtt::put_puback(&mut out, id);
                    self.send(&out).await.ok()?;
                }
                if topic.ends_with(b"/down") {
                    return Down::decode(&payload).ok();
                }
            }
        }
    }

    /// Reads to the end of the connection; `false` when it stays open.
    pub(super) async fn ends_within(&mut self, within: Duration) -> bool {
        let reading = async {
            let mut sink = [0; 4_096];
            while matches!(self.tls.read(&mut sink).await, Ok(count) if count > 0) {}
        };
        timeout(within, reading).await.is_ok()
    }

    /// Ends without a goodbye, and without a port that waits for late packets.
    pub(super) fn slam(self) {
        // Whatever the kernel says: the socket is closed in any case.
        self.tls.get_ref().0.set_zero_linger().ok();
    }
}
