//! A broker with an authority of its own, in a folder that goes away with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use broker::config::{Config, Limits, ListenSettings, LogSettings, OpsSettings, RouterSettings};
use broker::pki::{self, Authority, Order, Purpose};
use proto::DeviceId;
use rustls::ClientConfig;
use service::clock::wall_millis;
use service::serve::Endpoint;
use service::tls::{TimeFloor, client_config, load_identity, load_roots};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::raw::{self, Raw};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const DAY_MS: i64 = 24 * 3_600 * 1_000;

pub(crate) struct Fixture {
    folder: tempfile::TempDir,
    pub(crate) broker: Broker,
    pub(crate) stop: CancellationToken,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A broker whose settings `change` has seen.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        service::tls::install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        pki::init(folder.path(), "Test CA", 365, wall_millis()).unwrap();
        let path = |file: &str| folder.path().join(file);
        let mut listen =
            ListenSettings::new(&path("broker.pem"), &path("broker.key"), &path("ca.pem"));
        listen.crl = Some(path("crl.pem"));
        listen.address = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            listen,
            ops: OpsSettings {
                address: Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            },
            limits: Limits::default(),
            router: RouterSettings::default(),
            log: LogSettings::default(),
        };
        change(&mut config);
        issue(&folder, "broker", Purpose::Server, wall_millis(), 30);
        let stop = CancellationToken::new();
        let broker = Broker::start(config, stop.clone()).await.unwrap();
        Self {
            folder,
            broker,
            stop,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Issues a certificate that is good for 30 days, unless there is one.
    pub(crate) fn issue(&self, name: &str, purpose: Purpose) {
        if !self.path(&format!("{name}.pem")).exists() {
            issue(&self.folder, name, purpose, wall_millis(), 30);
        }
    }

    /// Issues a certificate that ends after so many milliseconds, or has ended so long ago.
    pub(crate) fn issue_ending(&self, name: &str, in_ms: i64) {
        issue(
            &self.folder,
            name,
            Purpose::Unit,
            wall_millis() + in_ms - 10 * DAY_MS,
            10,
        );
    }

    /// Revokes a name, and has the broker look at the list.
    pub(crate) fn revoke(&self, name: &str) {
        self.revoke_quietly(name);
        self.broker.reload.notify_one();
    }

    /// Revokes a name, and leaves it to the broker to notice.
    pub(crate) fn revoke_quietly(&self, name: &str) {
        Authority::open(self.folder.path())
            .unwrap()
            .revoke(name, wall_millis())
            .unwrap();
    }

    /// Replaces the broker's key by one that does not fit its certificate.
    pub(crate) fn damage_key(&self) {
        self.issue("other", Purpose::Unit);
        std::fs::copy(self.path("other.key"), self.path("broker.key")).unwrap();
    }

    pub(crate) fn client_config(&self, name: &str) -> ClientConfig {
        let (certificate, key) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        let identity = load_identity(&certificate, &key).unwrap();
        client_config(&identity, &self.path("ca.pem"), &TimeFloor::new()).unwrap()
    }

    /// The same, for TLS 1.2 alone.
    pub(crate) fn tls12_config(&self, name: &str) -> ClientConfig {
        let path = |kind: &str| self.path(&format!("{name}.{kind}"));
        let identity = load_identity(&path("pem"), &path("key")).unwrap();
        ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
            .with_root_certificates(load_roots(&self.path("ca.pem")).unwrap())
            .with_client_auth_cert(identity.chain, identity.key)
            .unwrap()
    }

    pub(crate) fn anonymous_config(&self) -> ClientConfig {
        let roots = load_roots(&self.path("ca.pem")).unwrap();
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.broker.address).await.unwrap()
    }

    pub(crate) async fn tls(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let host = "localhost".try_into().unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(host, self.tcp().await);
        timeout(PATIENCE, connecting)
            .await
            .expect("a handshake takes too long")
    }

    /// TLS with the certificate of `name`, and nothing said yet.
    pub(crate) async fn silent(&self, name: &str, purpose: Purpose) -> Raw {
        self.issue(name, purpose);
        Raw::new(self.tls(self.client_config(name)).await.unwrap())
    }

    /// Connected and welcomed.
    pub(crate) async fn raw(&self, name: &str, purpose: Purpose) -> Raw {
        let mut client = self.silent(name, purpose).await;
        client.send(&raw::connect(name)).await;
        assert_eq!(
            client.packet().await,
            raw::CONNACK_ACCEPTED,
            "{name} is welcomed"
        );
        client
    }

    /// The same, with as little room for what it is sent as the kernel allows.
    pub(crate) async fn deaf(&self, name: &str, purpose: Purpose) -> Raw {
        self.issue(name, purpose);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let socket = socket.connect(self.broker.address).await.unwrap();
        let host = "localhost".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(self.client_config(name)));
        let mut client = Raw::new(connector.connect(host, socket).await.unwrap());
        client.send(&raw::connect(name)).await;
        assert_eq!(client.packet().await, raw::CONNACK_ACCEPTED);
        client
    }

    /// What the operator's page says about a metric, labels included; 0 when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let mut page = TcpStream::connect(self.broker.ops_address.unwrap())
            .await
            .unwrap();
        page.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        page.read_to_string(&mut text).await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until(&self, name: &str, wanted: u64) {
        let reached = async {
            while self.metric(name).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} is {}, not {wanted}", self.metric(name).await);
        }
    }
}

fn issue(folder: &tempfile::TempDir, name: &str, purpose: Purpose, now_ms: i64, days: u32) {
    let san = if purpose == Purpose::Server {
        vec!["localhost".to_owned()]
    } else {
        vec![]
    };
    let order = Order {
        purpose,
        san,
        days,
        renew: false,
    };
    let mut authority = Authority::open(folder.path()).unwrap();
    authority
        .issue(
            &[DeviceId::new(name).unwrap()],
            &order,
            folder.path(),
            now_ms,
        )
        .unwrap();
}
