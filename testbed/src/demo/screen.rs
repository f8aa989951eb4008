//! The live summary: refreshed in place on a terminal, a line now and then elsewhere.
//!
//! Everything for people goes to standard error when standard output is to carry the JSON line.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use crate::recompute::database::Totals;
use crate::system::System;

/// Without a terminal, one line in so many refreshes.
const PLAIN_EVERY: u32 = 5;

/// What is shown at one moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) elapsed: Duration,
    pub(super) accepted: u64,
    /// None while the database does not answer.
    pub(super) totals: Option<Totals>,
    pub(super) connected: u64,
    pub(super) units: usize,
    /// p50 and p99.
    pub(super) freshness_ms: (Option<u64>, Option<u64>),
    /// The real agents.
    pub(super) agents: Vec<AgentLook>,
}

/// One real agent at one moment.
#[derive(Debug, Clone)]
pub(super) struct AgentLook {
    pub(super) device: String,
    /// Passages that it accepted.
    pub(super) accepted: u64,
    /// What `edge-agent status` says; none while it does not run.
    pub(super) status: Option<AgentStatus>,
}

/// The part of `edge-agent status --json` that is shown.
#[derive(Debug, Clone)]
pub(super) struct AgentStatus {
    /// `up`, `waiting`, `connecting` or `down`.
    pub(super) link: String,
    /// Passages without a receipt.
    pub(super) buffered: u64,
    /// Passages accepted per second over the last minute.
    pub(super) in_per_s: f64,
}

impl AgentStatus {
    /// None where the report lacks a field.
    pub(super) fn of(report: &Value) -> Option<Self> {
        Some(Self {
            link: report["link"]["state"].as_str()?.to_owned(),
            buffered: report["buffered"]["passages"].as_u64()?,
            in_per_s: report["rates"]["in_per_s"].as_f64()?,
        })
    }
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    to_stderr: bool,
    is_terminal: bool,
    /// Lines of the last summary, to be overwritten.
    drawn: usize,
    looks: u32,
    before: Option<(Duration, u64)>,
}

impl Screen {
    pub(super) fn new(to_stderr: bool) -> Self {
        let is_terminal = if to_stderr {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        Self {
            to_stderr,
            is_terminal,
            drawn: 0,
            looks: 0,
            before: None,
        }
    }

    /// A line that stays.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        let erased = self.erase();
        self.write(&format!("{erased}{text}\n"))
    }

    /// Commands to try; they stay above the summary.
    pub(super) fn help(&mut self, commands: &[(&'static str, String)]) -> io::Result<()> {
        let mut text = String::from("\ntry, in another terminal:\n");
        for (what, command) in commands {
            text.push_str(&format!("  # {what}\n  {command}\n"));
        }
        self.note(&text)
    }

    /// The summary.
    pub(super) fn show(&mut self, look: &Look) -> io::Result<()> {
        let rate = self.before.map_or(0, |(then, accepted)| {
            let ms = look.elapsed.saturating_sub(then).as_millis().max(1);
            u128::from(look.accepted - accepted) * 1_000 / ms
        });
        self.before = Some((look.elapsed, look.accepted));
        self.looks += 1;
        if self.is_terminal {
            let text = look.block(rate);
            let erased = self.erase();
            self.drawn = text.lines().count();
            self.write(&format!("{erased}{text}"))
        } else if self.looks % PLAIN_EVERY == 1 {
            self.write(&format!("{}\n", look.line(rate)))
        } else {
            Ok(())
        }
    }

    /// Moves to the first line of the last summary and clears from there on.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let write = |out: &mut dyn Write| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        if self.to_stderr {
            write(&mut io::stderr().lock())
        } else {
            write(&mut io::stdout().lock())
        }
    }
}

impl Look {
    fn buffered(&self) -> Option<u64> {
        let totals = self.totals?;
        Some(
            self.accepted
                .saturating_sub(totals.counted + totals.rejected + totals.lost),
        )
    }

    fn line(&self, rate: u128) -> String {
        format!(
            "{}  in {} ({rate}/s)  counted {}  stored {}  buffered {}  lost {}  \
             freshness p50 {} p99 {} ms  connected {}/{}",
            clock_face(self.elapsed),
            self.accepted,
            known(self.totals.map(|totals| totals.counted)),
            known(self.totals.map(|totals| totals.stored)),
            known(self.buffered()),
            known(self.totals.map(|totals| totals.lost)),
            known(self.freshness_ms.0),
            known(self.freshness_ms.1),
            self.connected,
            self.units,
        )
    }

    fn block(&self, rate: u128) -> String {
        let totals = self.totals;
        let rows = [
            ("passages in", format!("{:>12}   {rate}/s", self.accepted)),
            (
                "counted",
                format!("{:>12}", known(totals.map(|totals| totals.counted))),
            ),
            (
                "stored",
                format!("{:>12}", known(totals.map(|totals| totals.stored))),
            ),
            ("buffered", format!("{:>12}", known(self.buffered()))),
            (
                "lost",
                format!("{:>12}", known(totals.map(|totals| totals.lost))),
            ),
            (
                "freshness",
                format!(
                    "{:>9} ms p50, {} ms p99, from the post to the receipt after COMMIT",
                    known(self.freshness_ms.0),
                    known(self.freshness_ms.1)
                ),
            ),
            (
                "simulated",
                format!("{:>12} of {} units connected", self.connected, self.units),
            ),
        ];
        let mut text = format!("{}   Ctrl-C ends it\n", clock_face(self.elapsed));
        for (name, value) in rows {
            text.push_str(&format!("  {name:<12}{value}\n"));
        }
        for agent in &self.agents {
            let rest = agent.status.as_ref().map_or_else(
                || "does not answer".to_owned(),
                |status| {
                    let AgentStatus {
                        link,
                        buffered,
                        in_per_s,
                    } = status;
                    format!("{in_per_s:.1}/s   link {link}   {buffered} buffered")
                },
            );
            text.push_str(&format!(
                "  {:<12}{:>12}   {rest}\n",
                agent.device, agent.accepted
            ));
        }
        text
    }
}

fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn clock_face(elapsed: Duration) -> String {
    format!(
        "{:02}:{:02}",
        elapsed.as_secs() / 60,
        elapsed.as_secs() % 60
    )
}

/// What to type elsewhere to look around.
pub(super) fn commands(system: &System) -> Vec<(&'static str, String)> {
    let mut commands = Vec::new();
    let hour = "$(date -u -d '-1 hour' +%FT%TZ)";
    let now = "$(date -u -d '+5 minutes' +%FT%TZ)";
    if let Some(agent) = system.agents.values().next() {
        let device = agent.device();
        let path = format!("kvfv/{device}/avg-speed");
        let url = system.api(&path);
        commands.push((
            "average speed of a unit, by 5-minute windows",
            format!("curl -s \"{url}?from={hour}&to={now}&interval=5m\""),
        ));
        commands.push(("all units", format!("curl -s {}", system.api("kvfv"))));
        let url = agent.camera().url();
        let body = format!(
            "{{\"kvfv_id\": \"{device}\", \"timestamp\": \"'$(date -u +%FT%TZ)'\", \
             \"vehicle_speed\": 85.2, \"plate_number\": \"A123БВ68\"}}"
        );
        commands.push((
            "one more vehicle (the comparison at the end will find it: no camera saw it)",
            format!("curl -s {url} -H 'content-type: application/json' -d '{body}'"),
        ));
        commands.push(("how the unit is", agent.status_command()));
    }
    let sql = "SELECT * FROM v_speed_5m ORDER BY window_start DESC LIMIT 10";
    commands.push((
        "windows by SQL",
        format!("psql '{}' -c '{sql}'", system.database_url()),
    ));
    commands.push((
        "the broker's meters",
        format!("curl -s {}", system.broker.page("metrics")),
    ));
    commands.push((
        "the aggregator's meters",
        format!("curl -s {}", system.aggregator.page("metrics")),
    ));
    let directory = system.directory().display();
    commands.push(("settings and logs", format!("ls {directory}")));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        let totals = Totals {
            counted: 900,
            stored: 900,
            lost: 10,
            rejected: 5,
        };
        Look {
            elapsed: Duration::from_secs(83),
            accepted: 1_000,
            totals: Some(totals),
            connected: 199,
            units: 200,
            freshness_ms: (Some(640), Some(1_210)),
            agents: vec![AgentLook {
                device: "real-0001".into(),
                accepted: 40,
                status: None,
            }],
        }
    }

    #[test]
    fn what_is_neither_counted_nor_rejected_nor_lost_is_buffered() {
        assert_eq!(look().buffered(), Some(85));
        let text = look().line(12);
        assert!(
            text.starts_with("01:23  in 1000 (12/s)  counted 900"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "buffered 85  lost 10  freshness p50 640 p99 1210 ms  connected 199/200"
            )
        );
    }

    #[test]
    fn without_the_database_nothing_is_claimed() {
        let blind = Look {
            totals: None,
            ..look()
        };
        assert_eq!(blind.buffered(), None);
        assert!(
            blind.line(0).contains("counted -  stored -  buffered -"),
            "{}",
            blind.line(0)
        );
    }

    #[test]
    fn the_block_has_a_line_for_each_agent_and_one_that_does_not_answer_is_shown() {
        let text = look().block(12);
        let line = text.lines().last().unwrap_or_default();
        assert!(
            line.contains("real-0001") && line.ends_with("does not answer"),
            "{text}"
        );
    }

    #[test]
    fn the_state_of_an_agent_is_read_from_its_report() {
        let report = serde_json::json!({
            "link": {"state": "up"}, "buffered": {"passages": 3}, "rates": {"in_per_s": 9.5}
        });
        let status = AgentStatus::of(&report).expect("complete");
        assert_eq!((status.link.as_str(), status.buffered), ("up", 3));
        assert!(AgentStatus::of(&serde_json::json!({"link": {}})).is_none());
    }
}
