//! What was measured, and what it says of the targets.
use serde_json::{Value, json};

/// One quantity of one contestant: all its samples.
#[derive(Clone, Debug)]
pub struct Figure {
    pub row: &'static str,
    pub what: String,
    pub who: String,
    pub unit: Unit,
    pub samples: Samples,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Kib,
    PerSecond,
    GbitPerSecond,
    Microseconds,
    MillisecondsPerGbit,
    Percent,
    Count,
}

/// One sentence of the issue, measured.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub row: &'static str,
    pub claim: String,
    pub value: f64,
    pub bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<(&'static str, &'static str)>,
    pub figures: Vec<Figure>,
    pub verdicts: Vec<Verdict>,
    pub notes: Vec<String>,
}

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index between 0 and last"
        )]
        let (low, part) = {
            let place = q * last as f64;
            (place as usize, place.fract())
        };
        let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(f64::NAN);
        at(low) + (at(low + 1) - at(low)) * part
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Unit {
    const ALL: [Self; 8] = [
        Self::Milliseconds,
        Self::Kib,
        Self::PerSecond,
        Self::GbitPerSecond,
        Self::Microseconds,
        Self::MillisecondsPerGbit,
        Self::Percent,
        Self::Count,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Kib => "KiB",
            Self::PerSecond => "/s",
            Self::GbitPerSecond => "Gbit/s",
            Self::Microseconds => "µs",
            Self::MillisecondsPerGbit => "ms/Gbit",
            Self::Percent => "%",
            Self::Count => "",
        }
    }

    /// Of such, less is better.
    pub fn is_cost(self) -> bool {
        matches!(
            self,
            Self::Milliseconds | Self::Microseconds | Self::MillisecondsPerGbit | Self::Kib
        )
    }
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {}", number(bound)),
            Self::AtLeast(bound) => format!("≥ {}", number(bound)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (relation, number) = text.split_once(' ')?;
        let number = number.parse().ok()?;
        match relation {
            "≤" => Some(Self::AtMost(number)),
            "≥" => Some(Self::AtLeast(number)),
            _ => None,
        }
    }
}

impl Report {
    /// Adds a sample to a figure, which begins with its first one.
    pub fn sample(&mut self, row: &'static str, what: &str, who: &str, unit: Unit, v: f64) {
        let known = self
            .figures
            .iter_mut()
            .find(|f| f.row == row && f.what == what && f.who == who);
        match known {
            Some(figure) => figure.samples.push(v),
            None => self.figures.push(Figure {
                row,
                what: what.to_owned(),
                who: who.to_owned(),
                unit,
                samples: [v].into_iter().collect(),
            }),
        }
    }

    pub fn median(&self, row: &str, what: &str, who: &str) -> f64 {
        let found = self
            .figures
            .iter()
            .find(|f| f.row == row && f.what == what && f.who == who);
        found.map_or(f64::NAN, |figure| figure.samples.median())
    }

    /// The median of one contestant over that of another.
    pub fn ratio(&self, row: &str, what: &str, who: &str, over: &str) -> f64 {
        self.median(row, what, who) / self.median(row, what, over)
    }

    /// What everybody's samples of a figure are against another's of the same rounds.
    pub fn ratios(&self, row: &str, what: &str, over: &str) -> Vec<(String, Vec<f64>)> {
        let figures = || {
            let all = self.figures.iter();
            all.filter(|figure| figure.row == row && figure.what == what)
        };
        let Some(over) = figures().find(|figure| figure.who == over) else {
            return Vec::new();
        };
        let ratios = figures().map(|figure| {
            let rounds = figure.samples.0.iter().zip(&over.samples.0);
            let ratios = rounds.map(|(sample, over)| sample / over);
            let ratios = ratios.filter(|ratio| ratio.is_finite());
            (figure.who.clone(), ratios.collect())
        });
        ratios.collect()
    }

    pub fn judge(&mut self, row: &'static str, claim: &str, value: f64, bound: Bound) {
        self.verdicts.push(Verdict {
            row,
            claim: claim.to_owned(),
            value,
            bound,
        });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn all_met(&self) -> bool {
        self.verdicts.iter().all(Verdict::is_met)
    }

    /// The whole report as text.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (row, title) in &self.rows {
            text += &format!("\n{row}: {title}\n");
            text += &self.figures_of(row);
            for verdict in self.verdicts.iter().filter(|v| v.row == *row) {
                text += &verdict.line();
            }
        }
        for note in &self.notes {
            text += &format!("\nnote: {note}");
        }
        let met = self.verdicts.iter().filter(|v| v.is_met()).count();
        text += &format!("\n{met} of {} targets met\n", self.verdicts.len());
        text
    }

    fn figures_of(&self, row: &str) -> String {
        let of_row = || self.figures.iter().filter(|f| f.row == row);
        let mut whos: Vec<&str> = Vec::new();
        let mut whats: Vec<(&str, Unit)> = Vec::new();
        for figure in of_row() {
            if !whos.contains(&&*figure.who) {
                whos.push(&figure.who);
            }
            if !whats.iter().any(|(what, _)| *what == figure.what) {
                whats.push((&figure.what, figure.unit));
            }
        }
        whos.sort_by_key(|who| place_of(who));
        let mut text = format!("  {:<26}", "min / median");
        for who in &whos {
            text += &format!("{who:>22}");
        }
        text.push('\n');
        for (what, unit) in whats {
            text += &format!(
                "  {:<26}",
                format!("{what}, {}", unit.name()).trim_end_matches(", ")
            );
            for who in &whos {
                let figure = of_row().find(|f| f.what == what && f.who == *who);
                let cell = figure.map_or_else(
                    || "-".to_owned(),
                    |f| {
                        format!(
                            "{} / {}",
                            number(f.samples.min()),
                            number(f.samples.median())
                        )
                    },
                );
                text += &format!("{cell:>22}");
            }
            text.push('\n');
        }
        text
    }

    pub fn json(&self, machine: &Value) -> Value {
        let (verdicts, figures) = self.json_parts();
        json!({"machine": machine, "verdicts": verdicts, "figures": figures, "notes": self.notes})
    }

    /// The verdicts and the figures.
    pub(crate) fn json_parts(&self) -> (Value, Value) {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let verdicts: Vec<Value> = self.verdicts.iter().map(Verdict::json).collect();
        (verdicts.into(), figures.into())
    }

    /// Adds what was written of a row.
    pub(crate) fn read_row(&mut self, row: &'static str, json: &Value) {
        let of_row = |kind: &str| {
            let all = json[kind].as_array().cloned().unwrap_or_default();
            all.into_iter().filter(move |one| one["row"] == row)
        };
        let figures = of_row("figures").filter_map(|json| Figure::parse(row, &json));
        self.figures.extend(figures);
        let verdicts = of_row("verdicts").filter_map(|json| Verdict::parse(row, &json));
        self.verdicts.extend(verdicts);
    }
}

impl Figure {
    fn json(&self) -> Value {
        let samples = &self.samples;
        json!({
            "row": self.row, "what": self.what, "who": self.who, "unit": self.unit.name(),
            "min": rounded(samples.min()), "median": rounded(samples.median()),
            "p90": rounded(samples.quantile(0.9)),
            "samples": samples.0.iter().copied().map(rounded).collect::<Vec<_>>(),
        })
    }

    fn parse(row: &'static str, json: &Value) -> Option<Self> {
        let samples = json["samples"].as_array()?;
        let unit = json["unit"].as_str()?;
        Some(Self {
            row,
            what: json["what"].as_str()?.to_owned(),
            who: json["who"].as_str()?.to_owned(),
            unit: Unit::ALL.into_iter().find(|known| known.name() == unit)?,
            samples: samples.iter().map(Value::as_f64).collect::<Option<_>>()?,
        })
    }
}

impl Verdict {
    pub fn is_met(&self) -> bool {
        self.bound.is_met(self.value)
    }

    fn line(&self) -> String {
        let met = if self.is_met() { "met" } else { "MISSED" };
        let value = number(self.value);
        format!(
            "  {met:<6} {:<58}{value:>9}   {}\n",
            self.claim,
            self.bound.text()
        )
    }

    fn json(&self) -> Value {
        json!({
            "row": self.row, "claim": self.claim, "value": rounded(self.value),
            "target": self.bound.text(), "met": self.is_met(),
        })
    }

    fn parse(row: &'static str, json: &Value) -> Option<Self> {
        Some(Self {
            row,
            claim: json["claim"].as_str()?.to_owned(),
            // What could not be measured is null.
            value: json["value"].as_f64().unwrap_or(f64::NAN),
            bound: Bound::parse(json["target"].as_str()?)?,
        })
    }
}

/// The contestants in the order in which they are shown.
pub fn place_of(who: &str) -> usize {
    const ORDER: [&str; 10] = [
        "weft",
        "floor",
        "go",
        "netavark", // CNI plugins
        "fast",
        "plain",
        "vxlan",
        "host-gw",
        "naive",
        "wireguard", // packet paths
    ];
    ORDER
        .iter()
        .position(|known| *known == who)
        .unwrap_or(ORDER.len())
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        text
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let samples: Samples = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert!((samples.median() - 2.5).abs() < 1e-9);
        assert!((samples.min() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_machine_that_slows_down_for_a_round_does_not_change_a_ratio() {
        let mut report = Report::default();
        for (speed, round) in [(1.0, 3.0), (0.5, 3.0), (1.0, 3.3)] {
            report.sample("real", "TCP", "fast", Unit::GbitPerSecond, round * speed);
            report.sample("real", "TCP", "vxlan", Unit::GbitPerSecond, 2.0 * speed);
        }
        let ratios = report.ratios("real", "TCP", "vxlan");
        assert_eq!(ratios[0].0, "fast");
        assert!((ratios[0].1[1] - 1.5).abs() < 1e-9, "{ratios:?}");
        assert_eq!(report.ratios("real", "TCP", "nobody"), []);
    }

    #[test]
    fn a_figure_that_was_never_measured_meets_no_target() {
        let mut report = Report::default();
        let ratio = report.ratio("chain", "ADD", "weft", "go");
        report.judge("chain", "ADD", ratio, Bound::AtMost(1.0));
        assert!(!report.all_met());
    }
}
