//! `testbed replay`.

use std::path::PathBuf;

use clap::Args;
use service::exit;
use testbed::replay::{self, Order};

use super::{complain, say};

/// Post a file through real agents, one for each kvfv_id in it, and compare every window and every
/// raw row with a recomputation.
///
/// Exit status: 0 everything is equal, 1 something differs or did not run.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// NDJSON in the customer's format, compressed by gzip or not.
    #[arg(value_name = "FILE.ndjson[.gz]")]
    file: PathBuf,
    /// 5-minute windows computed elsewhere, to be equal in every row; columns
    /// kvfv_id,window_start_utc,n,sum_ckmh,min_ckmh,max_ckmh.
    #[arg(long, value_name = "FILE.csv")]
    expect: Option<PathBuf>,
    /// Post so many times faster than it happened; default: as fast as it goes.
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    speedup: Option<f64>,
    /// Print the report as one JSON line.
    #[arg(long)]
    json: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=1e9).contains(&factor) {
        Ok(factor)
    } else {
        Err("not within 0.1 to 1e9".into())
    }
}

impl Replay {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let order = Order {
            file: self.file,
            expect: self.expect,
            speedup: self.speedup,
        };
        let report = replay::run(&order).await?;
        if self.json {
            say(&serde_json::to_string(&report)?);
        } else {
            say(&format!(
                "{} units: {} passages accepted in {} ms, counted and stored after {} ms\n\
                 windows: {} compared, {} wrong; raw rows: {} stored, {} wrong",
                report.units,
                report.accepted,
                report.posting_ms,
                report.settled_ms,
                report.windows_compared,
                report.windows_wrong,
                report.stored,
                report.rows_wrong
            ));
            if report.expected_compared > 0 {
                let (compared, wrong) = (report.expected_compared, report.expected_wrong);
                say(&format!(
                    "expected rows: {compared} compared, {wrong} wrong"
                ));
            }
        }
        if report.exact() {
            return Ok(exit::OK);
        }
        report
            .differences
            .iter()
            .for_each(|difference| complain(difference));
        Ok(exit::FAILURE)
    }
}
