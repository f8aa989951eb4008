//! What the programs count: read from their pages, and whether the gate's books balance.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::system::{Server, System};

/// How long the last connections may take to be counted.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Metrics by name, labels included.
pub(super) struct Counted(BTreeMap<String, f64>);

impl Counted {
    pub(super) async fn of(system: &System, server: &Server) -> Result<Self> {
        let page = system.http().get(server.page("metrics")).send().await?;
        ensure!(
            page.status().is_success(),
            "no metrics of {}",
            server.name()
        );
        Ok(Self::parse(&page.text().await?))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .filter_map(|line| {
                    let (name, value) = line.rsplit_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// One value; 0 when it was never counted.
    pub(super) fn one(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The sum over all labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let labelled = format!("{name}{{");
        let of_name = |key: &str| key == name || key.starts_with(&labelled);
        let values = self.0.iter().filter(|(key, _)| of_name(key));
        values.map(|(_, value)| value).sum()
    }

    /// How many reasons of a name have a count.
    pub(super) fn reasons(&self, name: &str) -> usize {
        let labelled = format!("{name}{{");
        self.0
            .keys()
            .filter(|key| key.starts_with(&labelled))
            .count()
    }

    /// Connections that came and of which no counter says what became of them.
    fn unbalanced(&self) -> f64 {
        let came = self.one("verst_broker_connections_accepted_total");
        let opened = self.one("verst_broker_connections_opened_total");
        let ended_early = self.sum("verst_broker_handshake_failures_total")
            + self.sum("verst_broker_connects_refused_total");
        let closed = self.sum("verst_broker_connections_closed_total");
        let open = self.one("verst_broker_connections_open");
        let coming = self.one("verst_broker_handshakes_open");
        (came - ended_early - opened - coming).abs() + (opened - closed - open).abs()
    }
}

/// The same, once the last ones were counted.
pub(super) async fn unbalanced(system: &System) -> Result<f64> {
    let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
    loop {
        let difference = Counted::of(system, &system.broker).await?.unbalanced();
        if difference == 0.0 || tokio::time::Instant::now() >= deadline {
            return Ok(difference);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_no_counter_explains_are_seen() {
        let page = "# TYPE x counter\n\
                    verst_broker_connections_accepted_total 10\n\
                    verst_broker_connections_opened_total 6\n\
                    verst_broker_handshake_failures_total{reason=\"tls\"} 2\n\
                    verst_broker_connects_refused_total{reason=\"will\"} 1\n\
                    verst_broker_connections_closed_total{reason=\"lost\"} 5\n\
                    verst_broker_connections_open 1\n";
        let counted = Counted::parse(page);
        assert_eq!(counted.unbalanced(), 1.0);
        assert_eq!(counted.reasons("verst_broker_handshake_failures_total"), 1);
        let whole = page.replace("accepted_total 10", "accepted_total 9");
        assert_eq!(Counted::parse(&whole).unbalanced(), 0.0);
    }
}
