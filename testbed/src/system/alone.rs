//! One real agent by itself: its centre never answers, so everything that it accepts stays with it.

use std::path::{Path, PathBuf};

use super::place::{config_path, loopback, server};
use super::{Agent, READY_WITHIN, STOPPED_WITHIN, SystemError, Tuning, agent, config};
use crate::pki::Pki;
use crate::programs::Programs;
use crate::workdir::WorkDir;

/// Its unit's name.
pub const DEVICE: &str = "alone";

/// An agent, its certificates and its directory, which go with it.
#[derive(Debug)]
pub struct Alone {
    /// The agent.
    pub agent: Agent,
    buffer: PathBuf,
    http: reqwest::Client,
    directory: WorkDir,
}

impl Alone {
    /// Makes it, its buffer below `buffers` or in its own directory, and does not start it. `change`
    /// has the last word about its configuration.
    ///
    /// # Errors
    /// A program or a port is missing.
    pub fn make(
        tuning: &Tuning,
        buffers: Option<&Path>,
        change: impl FnOnce(String) -> String,
    ) -> Result<Self, SystemError> {
        let programs = Programs::find()?;
        let directory = WorkDir::new("alone")?;
        let home = directory.path();
        let pki = Pki::create(&programs, &home.join("pki"))?;
        pki.units(&[DEVICE])?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let (door, ops, nobody) = (loopback()?, loopback()?, loopback()?);
        let place = agent::Place {
            buffer: buffers.unwrap_or(home).join("buffer"),
            status: home.join("alone.sock"),
            door,
            ops,
        };
        let text = change(config::agent(
            tuning,
            &pki,
            DEVICE,
            (nobody.port(), None),
            &place,
        ));
        let program = programs.agent();
        let server = server(home, DEVICE, &program, &text, ops, &http)?;
        let config = config_path(home, DEVICE);
        Ok(Self {
            agent: Agent::new(DEVICE, server, program, config, door, http.clone()),
            buffer: place.buffer,
            http,
            directory,
        })
    }

    /// Starts it and waits until it takes passages.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start(&mut self) -> Result<(), SystemError> {
        self.agent.server.start()?;
        self.agent.server.ready(READY_WITHIN).await
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Option<std::process::ExitStatus> {
        tokio::task::block_in_place(|| self.agent.server.stop(STOPPED_WITHIN))
    }

    /// Where its buffer is.
    #[must_use]
    pub fn buffer(&self) -> &Path {
        &self.buffer
    }

    /// Where its certificates and its log are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One of the operator's pages.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn page(&self, page: &str) -> Result<String, SystemError> {
        let response = self.http.get(self.agent.server.page(page)).send().await?;
        Ok(response.text().await?)
    }
}
