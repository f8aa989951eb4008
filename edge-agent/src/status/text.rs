//! The report for people: one line a subject, columns aligned. Pure.

use super::report::{LinkReport, Report, StreamReport};

const KIB: f64 = 1_024.0;

/// Streams that are shown, the newest first.
const STREAMS_SHOWN: usize = 8;

/// The whole report as text, ending with a line break.
#[must_use]
pub fn render(report: &Report) -> String {
    let verdict = if report.healthy {
        "healthy"
    } else {
        "degraded"
    };
    let mut text = format!("edge-agent {}: {verdict}\n", report.device);
    for reason in &report.reasons {
        line(&mut text, "!", reason);
    }
    for (subject, said) in lines(report) {
        line(&mut text, subject, &said);
    }
    for stream in report.streams.iter().take(STREAMS_SHOWN) {
        line(&mut text, "stream", &books(stream));
    }
    if let Some(more) = report.streams.len().checked_sub(STREAMS_SHOWN)
        && more > 0
    {
        line(
            &mut text,
            "stream",
            &format!("and {more} older ones (--json)"),
        );
    }
    text
}

/// One stream in a line; what is nothing is left out.
fn books(stream: &StreamReport) -> String {
    let mut said = format!(
        "{}{} {} accepted, {} counted, {} stored",
        stream.stream.get(..8).unwrap_or(&stream.stream),
        if stream.current { " (this run):" } else { ":" },
        grouped(stream.accepted),
        grouped(stream.counted),
        grouped(stream.stored),
    );
    let unbooked = stream.unbooked.values().sum();
    for (count, what) in [
        (stream.waiting, "waiting"),
        (stream.lost, "lost"),
        (unbooked, "lost and not booked yet"),
    ] {
        if count > 0 {
            said.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    said
}

fn line(text: &mut String, subject: &str, said: &str) {
    text.push_str(&format!("  {subject:<13}{said}\n"));
}

fn lines(report: &Report) -> Vec<(&'static str, String)> {
    let ago = |at_ms: i64| span(report.now_ms.saturating_sub(at_ms));
    let link = &report.link;
    let buffered = &report.buffered;
    let waiting = match (buffered.oldest_ms, buffered.newest_ms) {
        (Some(oldest), Some(newest)) => format!(
            "{} passages, {}, from {} to {} ({})",
            grouped(buffered.passages),
            bytes(buffered.bytes),
            utc(oldest),
            utc(newest),
            span(newest - oldest)
        ),
        _ => "nothing".to_owned(),
    };
    let receipt = match (link.last_receipt_ms, link.receipt_time_ms) {
        (None, _) => "none since the start".to_owned(),
        (Some(at), None) => format!("{} ago", ago(at)),
        (Some(at), Some(usual)) => format!("{} ago, usually after {usual} ms", ago(at)),
    };
    let passages = &report.passages;
    let lost: Vec<_> = passages
        .lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} ({reason})", grouped(*count)))
        .collect();
    let disk = &report.disk;
    let certificate = report.certificate.days_left.map_or_else(
        || "cannot be read".to_owned(),
        |days| {
            if days < 0 {
                "expired".to_owned()
            } else {
                format!("{days} days left")
            }
        },
    );
    let or_none = |list: Vec<String>| {
        if list.is_empty() {
            "none".to_owned()
        } else {
            list.join(", ")
        }
    };
    vec![
        (
            "running",
            format!(
                "for {}, version {}",
                ago(report.started_at_ms),
                report.version
            ),
        ),
        (
            "link",
            format!(
                "{} for {}, to {}{}",
                link.state,
                ago(link.since_ms),
                link.broker,
                match link.brokers {
                    1 => String::new(),
                    brokers => format!(" ({} of {brokers})", link.broker_place),
                }
            ),
        ),
        ("link carries", carries(link)),
        ("receipt", receipt),
        ("waiting", waiting),
        ("draining", draining(report)),
        ("buffer", lasts(report)),
        (
            "on its way",
            format!(
                "{} passages in {} messages, {}",
                grouped(report.in_flight.passages),
                report.in_flight.messages,
                bytes(u64::try_from(report.in_flight.bytes).unwrap_or(u64::MAX))
            ),
        ),
        (
            "rate",
            format!(
                "{:.1}/s in, {:.1}/s out",
                report.rates.in_per_s, report.rates.out_per_s
            ),
        ),
        (
            "passages",
            format!(
                "{} accepted, {} receipted, {} duplicates, {} rejected, {} offered again",
                grouped(passages.accepted),
                grouped(passages.receipted),
                grouped(passages.duplicates),
                grouped(passages.rejected),
                grouped(passages.offered_again)
            ),
        ),
        ("lost", or_none(lost)),
        (
            "disk",
            format!(
                "{} held of {}, files {}, {} free",
                bytes(disk.held_bytes),
                bytes(disk.quota_bytes),
                bytes(disk.used_bytes),
                bytes(disk.free_bytes)
            ),
        ),
        ("store", report.store.clone()),
        ("certificate", certificate),
        ("alarms", or_none(report.alarms.clone())),
    ]
}

fn draining(report: &Report) -> String {
    let buffered = &report.buffered;
    let rate = buffered
        .drain_per_min
        .map_or_else(String::new, |rate| format!("{}/min", signed(rate)));
    match (buffered.done_at_ms, &buffered.reason) {
        (Some(at), _) => format!(
            "{rate}, done in {} ({})",
            span(at.saturating_sub(report.now_ms)),
            utc(at)
        ),
        (None, Some(why)) if rate.is_empty() => format!("no: {why}"),
        (None, Some(why)) => format!("no: {why} ({rate})"),
        (None, None) if buffered.state == "keeping_up" => "keeping up".to_owned(),
        (None, None) if buffered.passages == 0 => "nothing to drain".to_owned(),
        (None, None) => rate,
    }
}

fn lasts(report: &Report) -> String {
    let usual = report.rates.usual_in_per_s;
    report.buffered.buffer_lasts_s.map_or_else(
        || "lasts for longer than can be told".to_owned(),
        |lasts_s| {
            let lasts_ms = i64::try_from(lasts_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
            format!(
                "lasts {} at the usual {usual:.1}/s if nothing leaves",
                span(lasts_ms)
            )
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn carries(link: &LinkReport) -> String {
    let rate = link.bits_per_s.map_or_else(
        || "rate not known yet".to_owned(),
        |bits| format!("{:.1} kbit/s", bits as f64 / 1_000.0),
    );
    let mut text = match link.round_trip_ms {
        Some(ms) => format!("{rate}, round trip {ms} ms"),
        None => rate,
    };
    if let Some(most) = link.day_bytes_max {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (day, most) = (megabytes(link.day_bytes), megabytes(most));
        text.push_str(&format!(", {day:.1} of {most:.0} MB used today"));
    }
    if let Some(held) = &link.held {
        text.push_str(&format!("; held: {held}"));
    }
    if let Some(until) = link.held_until_ms {
        text.push_str(&format!(" until {}", utc(until)));
    }
    text
}

/// A time in whole seconds.
pub(crate) fn utc(at_ms: i64) -> String {
    jiff::Timestamp::from_second(at_ms.div_euclid(1_000))
        .map_or_else(|_| format!("{at_ms} ms since 1970"), |at| at.to_string())
}

fn signed(count: i64) -> String {
    let sign = if count < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(count.unsigned_abs()))
}

/// A length of time in its two largest units.
fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let seconds = ms / 1_000;
    match (
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, 0) => format!("{ms} ms"),
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

/// A count with its thousands apart.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn bytes(count: u64) -> String {
    let mut amount = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < KIB {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{amount:.1} {unit}")
            };
        }
        amount /= KIB;
    }
    format!("{amount:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        let spans = [-5, 999, 1_000, 61_000, 3_600_000, 90_061_000].map(span);
        assert_eq!(
            spans,
            ["0 ms", "999 ms", "1 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]
        );
    }

    #[test]
    fn counts_and_sizes_are_easy_to_read() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 1_023, 1_536, 5 << 30].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
    }
}
