//! Connections to the database.
//!
//! Every session of Verst speaks UTC, plans its prepared statements once and does not compile them:
//! they are few, short and always alike.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod,
    Runtime,
};
use rustls::ClientConfig;
use secrecy::SecretString;
use service::tasks::TaskSet;
use service::tls::TlsError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{DatabaseConfig, database_login};
use crate::store::reader::READER_SESSION;

/// Until a connection stands: the socket, and then the server's word that it is ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until unacknowledged data makes a connection count as lost.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Until a silent connection is asked whether it still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Until the API has a connection from its pool.
const POOL_TIMEOUT: Duration = Duration::from_secs(2);

const SESSION: &str = "-c TimeZone=UTC -c jit=off -c plan_cache_mode=force_generic_plan \
                       -c idle_in_transaction_session_timeout=60s";

/// Settings by which no database can be reached.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Neither a URL nor key=value pairs. The text is not quoted: it may hold a password.
    #[error("database.url {0}")]
    Url(String),
    /// The password is not there.
    #[error("cannot read database.password_file {}: {source}", path.display())]
    Password {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server's roots cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The pool cannot be made.
    #[error("cannot make the connection pool: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
}

/// A connection that is not to be had, or that has ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server refuses, or the network fails.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    /// The server takes what is sent and says nothing.
    #[error("the database has not answered within {} ms", .0.as_millis())]
    Silent(Duration),
}

/// Where the database is and how to log in.
#[derive(Clone)]
pub struct Target {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// See [`CONNECT_TIMEOUT`].
    patience: Duration,
}

impl Target {
    /// Reads password and roots.
    ///
    /// # Errors
    /// When the URL or a file cannot be used.
    pub fn new(settings: &DatabaseConfig) -> Result<Self, TargetError> {
        let mut target = Self::from_url(&settings.url)?;
        if let Some(path) = &settings.password_file {
            let password =
                std::fs::read_to_string(path).map_err(|source| TargetError::Password {
                    path: path.clone(),
                    source,
                })?;
            service::private_file::warn_if_open("password file", path);
            target
                .config
                .password(password.trim_end_matches(['\n', '\r']));
        }
        if let Some(ca) = &settings.ca {
            let roots = service::tls::load_roots(ca)?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(TlsError::from)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            target.tls = Some(MakeRustlsConnect::new(tls));
            target
                .config
                .ssl_mode(tokio_postgres::config::SslMode::Require);
        }
        Ok(target)
    }

    fn from_url(url: &SecretString) -> Result<Self, TargetError> {
        let mut config = database_login(url).map_err(TargetError::Url)?;
        let own = config.get_options().unwrap_or_default();
        let options = format!("{SESSION} {own}");
        config
            .options(options.trim_end())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE);
        Ok(Self {
            config,
            tls: None,
            patience: CONNECT_TIMEOUT,
        })
    }

    /// A connection of its own, driven by a task of `tasks` until the client is dropped. `name` is
    /// what `pg_stat_activity.application_name` shows.
    ///
    /// # Errors
    /// When there is no connection within 5 s, or the server refuses.
    pub async fn connect(&self, name: &str, tasks: &TaskSet) -> Result<Client, ConnectionError> {
        self.open(name, tasks, None).await
    }

    /// The same, and `news` is told whenever something is notified that the client listens for. News
    /// that find no room are dropped: one that waits is as good as two.
    ///
    /// # Errors
    /// As [`Target::connect`].
    pub async fn connect_hearing(
        &self,
        name: &str,
        tasks: &TaskSet,
        news: mpsc::Sender<()>,
    ) -> Result<Client, ConnectionError> {
        self.open(name, tasks, Some(news)).await
    }

    async fn open(
        &self,
        name: &str,
        tasks: &TaskSet,
        news: Option<mpsc::Sender<()>>,
    ) -> Result<Client, ConnectionError> {
        let mut config = self.config.clone();
        config.application_name(name);
        let opened = async {
            if let Some(tls) = &self.tls {
                let (client, connection) = config.connect(tls.clone()).await?;
                tasks.spawn("database-connection", drive(connection, news));
                Ok(client)
            } else {
                let (client, connection) = config.connect(NoTls).await?;
                tasks.spawn("database-connection", drive(connection, news));
                Ok(client)
            }
        };
        answered(self.patience, opened).await
    }

    /// A pool for readers, whose sessions have the rights of a reader ([`READER_SESSION`]).
    /// Connections are made when they are needed.
    ///
    /// # Errors
    /// When its settings contradict each other.
    pub fn pool(&self, size: usize) -> Result<Pool, TargetError> {
        let mut config = self.config.clone();
        config.application_name("verst-api");
        let recycle = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match &self.tls {
            Some(tls) => Manager::from_config(config, tls.clone(), recycle),
            None => Manager::from_config(config, NoTls, recycle),
        };
        let reader_session = Hook::async_fn(|client: &mut ClientWrapper, _| {
            Box::pin(async move {
                client
                    .batch_execute(READER_SESSION)
                    .await
                    .map_err(HookError::Backend)
            })
        });
        let pool = Pool::builder(manager)
            .max_size(size)
            // The connection used last: its server process has everything at hand.
            .queue_mode(QueueMode::Lifo)
            .post_create(reader_session)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(POOL_TIMEOUT))
            .build()?;
        Ok(pool)
    }
}

/// What the server answers, if it does so in time.
///
/// # Errors
/// The server's, or that there was no answer in time: then the connection is to be dropped.
pub async fn answered<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ConnectionError> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(ConnectionError::Silent(patience)),
    }
}

/// Moves the bytes of a connection until its client is dropped or it fails.
async fn drive<S, T>(mut connection: Connection<S, T>, news: Option<mpsc::Sender<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(_)) => {
                news.iter().for_each(|news| {
                    news.try_send(()).ok();
                });
            }
            Ok(_) => {}
            Err(error) => return tracing::debug!(%error, "database connection ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel takes the connection, and nobody answers on it.
    #[tokio::test]
    async fn a_server_that_takes_a_connection_and_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = SecretString::from(format!("host=127.0.0.1 port={port} user=verst"));
        let mut target = Target::from_url(&url).unwrap();
        target.patience = Duration::ZERO;
        let tasks = TaskSet::new(tokio_util::sync::CancellationToken::new());
        let patience = Duration::from_secs(60);
        let connected = tokio::time::timeout(patience, target.connect("test", &tasks)).await;
        let error = connected.expect("it is given up").unwrap_err();
        assert!(matches!(error, ConnectionError::Silent(_)), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_answers_nothing_is_left() {
        let silent = answered(Duration::ZERO, std::future::pending::<Result<(), _>>());
        let silent = tokio::time::timeout(Duration::from_secs(60), silent).await;
        let error = silent.expect("left in time").unwrap_err();
        assert!(matches!(error, ConnectionError::Silent(_)), "{error}");
    }

    #[test]
    fn what_the_kernel_keeps_of_a_connection_is_handed_to_it() {
        let target = Target::from_url(&SecretString::from("host=db user=verst")).unwrap();
        let config = &target.config;
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert!(config.get_keepalives());
    }

    #[test]
    fn options_of_the_url_are_kept_beside_our_own() {
        let url = SecretString::from("host=/tmp user=verst options='-c work_mem=8MB'");
        let target = Target::from_url(&url).unwrap();
        let options = target.config.get_options().unwrap();
        assert!(options.starts_with("-c TimeZone=UTC"), "{options}");
        assert!(options.ends_with("-c work_mem=8MB"), "{options}");
    }

    #[test]
    fn a_faulty_url_is_not_quoted() {
        let url = SecretString::from("host=/tmp password=hunter2 nonsense=1");
        let error = Target::from_url(&url).err().unwrap().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.contains("unknown option"), "{error}");
    }
}
