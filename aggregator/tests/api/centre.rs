//! A database with the schema (with TimescaleDB where the server offers it), and the API over it on a
//! port of its own.

use std::sync::Arc;

use aggregator::api;
use aggregator::api::metrics::ApiMetrics;
use aggregator::config::{ApiConfig, DatabaseConfig, Timescale};
use aggregator::store::connect::Target;
use aggregator::store::reader::Reader;
use aggregator::store::schema;
use prometheus_client::registry::Registry;
use reqwest::Method;
use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde_json::Value;
use service::ops::{self, Health};
use service::serve::{Endpoint, HttpListener, Limits, http};
use service::tasks::TaskSet;
use testbed::postgres::Cluster;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

pub(crate) struct Centre {
    /// The owner's connection, for putting things into the tables.
    pub(crate) database: Client,
    /// The owner's URL.
    pub(crate) url: String,
    base: String,
    http: reqwest::Client,
    stop: CancellationToken,
    pub(crate) tasks: TaskSet,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) fn settings(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        url: SecretString::from(url),
        password_file: None,
        ca: None,
        pool_size: 2,
        migrate: true,
        timescale: Timescale::Auto,
        accept_async_standby: false,
    }
}

impl Centre {
    pub(crate) async fn start() -> Self {
        let url = Cluster::shared().fresh_database().unwrap();
        Self::over(url, &ApiConfig::default()).await
    }

    pub(crate) async fn over(url: String, config: &ApiConfig) -> Self {
        service::tls::install_crypto_provider();
        let stop = CancellationToken::new();
        let tasks = TaskSet::new(stop.clone());
        let target = Target::new(&settings(&url)).unwrap();
        let mut database = target.connect("test", &tasks).await.unwrap();
        schema::migrate(&mut database, Timescale::Auto)
            .await
            .unwrap();

        let mut registry = Registry::default();
        let metrics = ApiMetrics::register(&mut registry);
        let router = api::router(
            Reader::new(target.pool(2).unwrap(), config.cache_bytes_max),
            config,
            metrics,
        );
        let router = router.merge(ops::router(Arc::new(registry), Health::new()));
        let endpoint = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        let listener = HttpListener::bind(&endpoint).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let serving = http(listener, router, stop.clone(), Limits::default());
        tasks.spawn("api", serving);
        Self {
            database,
            url,
            base,
            http: reqwest::Client::new(),
            stop,
            tasks,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer {
            status,
            headers,
            text: response.text().await.unwrap(),
        }
    }

    /// The first column of the first row, as text.
    pub(crate) async fn value(&self, sql: &str) -> Option<String> {
        let messages = self.database.simple_query(sql).await.unwrap();
        messages.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        })
    }
}

impl Drop for Centre {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
