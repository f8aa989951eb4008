//! One measured number, what it should be, and how both are shown.
//!
//! Pure.

use serde::Serialize;

/// Which side of the target is good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Reported for comparison; any value will do.
    Any,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(target) => value >= target,
            Self::AtMost(target) => value <= target,
            Self::Any => value.is_finite(),
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(target) => format!("≥ {}", number(target)),
            Self::AtMost(target) => format!("≤ {}", number(target)),
            Self::Any => String::new(),
        }
    }
}

/// What the machine would allow, measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limit {
    /// In the unit of the figure, unless `of` says otherwise.
    pub value: f64,
    /// What was measured.
    pub of: &'static str,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Benchmark and quantity, such as `live.cpu`.
    pub name: &'static str,
    /// What was measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it should be.
    pub target: Target,
    /// What the machine would allow; none where there is no such thing.
    pub limit: Option<Limit>,
    /// Whether the value reaches the target.
    pub met: bool,
}

impl Figure {
    /// A measured value.
    #[must_use]
    pub fn new(name: &'static str, value: f64, unit: &'static str, target: Target) -> Self {
        Self {
            name,
            value,
            unit,
            target,
            limit: None,
            met: target.is_met(value),
        }
    }

    /// Beside it, what the machine would allow.
    #[must_use]
    pub fn with_limit(mut self, value: f64, of: &'static str) -> Self {
        self.limit = Some(Limit { value, of });
        self
    }
}

/// All figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether every figure reaches its target.
    pub met: bool,
    /// In the order of measurement.
    pub figures: Vec<Figure>,
    /// What was left out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// Of these figures.
    #[must_use]
    pub fn new(figures: Vec<Figure>) -> Self {
        Self {
            met: !figures.is_empty() && figures.iter().all(|figure| figure.met),
            figures,
            notes: Vec::new(),
        }
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let heads = [
            "figure",
            "value",
            "unit",
            "target",
            "met",
            "limit in the same run",
        ];
        let rows: Vec<[String; 6]> = self.figures.iter().map(row).collect();
        let heads = heads.map(ToOwned::to_owned);
        let mut widths = [0; 6];
        for cells in std::iter::once(&heads).chain(&rows) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = String::new();
        for cells in std::iter::once(&heads).chain(&rows) {
            let mut line = String::new();
            for (place, (cell, width)) in cells.iter().zip(widths).enumerate() {
                // Numbers stand right, words left.
                let padding = " ".repeat(width - cell.chars().count());
                let (left, right) = if place == 1 {
                    (&*padding, "")
                } else {
                    ("", &*padding)
                };
                line.push_str(&format!("{left}{cell}{right}  "));
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        for note in &self.notes {
            table.push_str(note);
            table.push('\n');
        }
        table
    }
}

fn row(figure: &Figure) -> [String; 6] {
    let limit = figure.limit.as_ref();
    [
        figure.name.to_owned(),
        number(figure.value),
        figure.unit.to_owned(),
        figure.target.text(),
        match figure.target {
            Target::Any => String::new(),
            _ if figure.met => "yes".to_owned(),
            _ => "NO".to_owned(),
        },
        limit.map_or_else(String::new, |limit| {
            format!("{} {}", number(limit.value), limit.of)
        }),
    ]
}

/// Three significant digits, thousands apart.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value.abs() < 100.0 {
        let decimals = if value.abs() < 10.0 { 2 } else { 1 };
        let text = format!("{value:.decimals$}");
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        };
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

/// The middle value; of two middle ones, their mean. None without values.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_met_only_when_every_figure_is() {
        let good = Figure::new("a", 3.0, "x", Target::AtLeast(3.0));
        let bad = Figure::new("b", 3.1, "x", Target::AtMost(3.0));
        let any = Figure::new("c", 1.0, "x", Target::Any);
        let broken = Figure::new("d", f64::NAN, "x", Target::AtMost(3.0));
        assert!(Report::new(vec![good.clone(), any.clone()]).met);
        assert!(!Report::new(vec![good.clone(), bad]).met);
        assert!(!Report::new(vec![good, broken]).met);
        assert!(!Report::new(vec![Figure::new("e", f64::NAN, "x", Target::Any)]).met);
        assert!(!Report::new(vec![]).met, "nothing measured, nothing met");
    }

    #[test]
    fn the_json_line_names_value_unit_target_limit_and_met() {
        let figure = Figure::new("raw.ratio", 0.9, "of bare COPY", Target::AtLeast(0.85))
            .with_limit(1.0, "x");
        let json = serde_json::to_value(Report::new(vec![figure])).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"met": true, "figures": [{
                "name": "raw.ratio", "value": 0.9, "unit": "of bare COPY",
                "target": {"at_least": 0.85}, "limit": {"value": 1.0, "of": "x"}, "met": true,
            }]})
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.914, "0.91"),
            (9.0, "9"),
            (12.46, "12.5"),
            (3_000_000.4, "3,000,000"),
            (-1_234.0, "-1,234"),
            (100.0, "100"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_table_has_a_line_for_each_figure() {
        let report = Report::new(vec![
            Figure::new("a.rate", 12_345.0, "per s", Target::AtLeast(10_000.0))
                .with_limit(5.0, "y"),
            Figure::new("b", 20.0, "ms", Target::AtMost(10.0)),
        ]);
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("12,345") && lines[1].contains("yes") && lines[1].ends_with("5 y")
        );
        assert!(lines[2].contains("NO"));
    }
}
