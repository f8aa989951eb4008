//! What the driver asks of the buffer and the disk, and what it does with the answers.
//!
//! Each question runs as a future of its own; nothing here waits.

use std::future::Future;
use std::pin::Pin;

use proto::EventTime;
use rustls::ClientConfig;
use service::tls::Identity;
use tokio::task::JoinError;

use super::Driver;
use crate::uplink::courier::Answer;
use crate::uplink::mqtt::Link;
use crate::uplink::tls::{CredentialsError, Stamp};

pub(super) type Reply = Pin<Box<dyn Future<Output = Done> + Send>>;
type Loaded = Result<(Identity, ClientConfig), CredentialsError>;

/// What came of something that was asked for.
pub(super) enum Done {
    Answered(Answer),
    Credentials { loaded: Box<Loaded>, stamp: Stamp },
    Metered(std::io::Result<()>),
}

impl Driver {
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Answered(answer) => {
                let (now, at) = (self.clock.now(), self.time.read());
                self.courier.answered(now, at, answer);
            }
            Done::Credentials { loaded, stamp } => {
                self.stamp = Some(stamp);
                self.connect(*loaded);
            }
            Done::Metered(Ok(())) => {}
            Done::Metered(Err(error)) => {
                tracing::warn!(%error, "the day's bytes cannot be written down");
            }
        }
    }

    /// Reads the certificate files off the async threads.
    pub(super) fn read_credentials(&mut self) {
        let credentials = self.credentials.clone();
        self.ask(async move {
            let stamp = credentials.stamp();
            let read = tokio::task::spawn_blocking(move || credentials.load()).await;
            let loaded = match read.map_err(JoinError::try_into_panic) {
                Ok(loaded) => loaded,
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                // The runtime ends, and this with it.
                Err(Err(_)) => std::future::pending().await,
            };
            Done::Credentials {
                loaded: Box::new(loaded),
                stamp,
            }
        });
    }

    fn connect(&mut self, loaded: Loaded) {
        match loaded {
            Ok((identity, config)) => {
                let not_after = EventTime::from_millis(identity.not_after.as_millisecond());
                self.view
                    .send_modify(|view| view.certificate_not_after = Some(not_after));
                self.link = Some(Link::connect(&self.tasks, self.address(), config));
            }
            Err(error) => self.lose(error.to_string()),
        }
    }

    pub(super) fn ask(&self, question: impl Future<Output = Done> + Send + 'static) {
        self.replies.push(Box::pin(question));
    }
}
