//! Where a run's numbers go, and how those of earlier ones are kept beside them.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::report::Report;

/// What is worth keeping lies beside the code; any other run's results among what is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Code,
    Build,
}

impl Place {
    fn directory(self) -> PathBuf {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        match self {
            Self::Code => benches.join("results"),
            Self::Build => benches.with_file_name("target").join("bench-results"),
        }
    }
}

/// Writes `NAME.json` and `NAME.svg`.
pub fn keep(place: Place, name: &str, json: &Value, svg: &str) {
    let dir = place.directory();
    fs::create_dir_all(&dir).expect("make the directory of results");
    let json = serde_json::to_string_pretty(json).expect("numbers and strings are JSON");
    fs::write(dir.join(format!("{name}.json")), json + "\n").expect("write the results");
    fs::write(dir.join(format!("{name}.svg")), svg).expect("write the plot");
    println!("kept in {}: {name}.json, {name}.svg", dir.display());
}

/// A record in which every row is of its own day: whoever measures one anew replaces that one.
#[derive(Debug, Default)]
pub struct Record {
    pub report: Report,
    /// For each row, what it was measured on, and what was to be said about that.
    circumstances: Vec<(&'static str, Value)>,
}

impl Record {
    /// What is kept under that name, as far as it is of `rows` (names and titles).
    pub fn read(place: Place, name: &str, rows: &[(&'static str, &'static str)]) -> Self {
        let file = place.directory().join(format!("{name}.json"));
        let kept = fs::read_to_string(file).unwrap_or_default();
        Self::parse(&serde_json::from_str(&kept).unwrap_or_default(), rows)
    }

    fn parse(json: &Value, rows: &[(&'static str, &'static str)]) -> Self {
        let mut record = Self::default();
        for (name, title) in rows {
            if let Some(circumstances) = json["rows"].get(name) {
                record.report.rows.push((name, title));
                record.circumstances.push((name, circumstances.clone()));
                record.report.read_row(name, json);
            }
        }
        record
    }

    /// Puts a row of the run in the place of an earlier one of its name.
    pub fn replace(&mut self, name: &'static str, run: &Report, machine: &Value) {
        let (mine, ran) = (&mut self.report, |row: &str| row == name);
        mine.figures.retain(|figure| !ran(figure.row));
        mine.verdicts.retain(|verdict| !ran(verdict.row));
        mine.rows.retain(|(row, _)| !ran(row));
        self.circumstances.retain(|(row, _)| !ran(row));
        let rows = run.rows.iter().filter(|(row, _)| ran(row));
        mine.rows.extend(rows.copied());
        let figures = run.figures.iter().filter(|figure| ran(figure.row));
        mine.figures.extend(figures.cloned());
        let verdicts = run.verdicts.iter().filter(|verdict| ran(verdict.row));
        mine.verdicts.extend(verdicts.cloned());
        let mut circumstances = machine.clone();
        circumstances["notes"] = json!(run.notes);
        self.circumstances.push((name, circumstances));
    }

    /// With the rows in the order of `rows`.
    pub fn sorted(mut self, rows: &[(&'static str, &'static str)]) -> Self {
        let place = |name: &str| rows.iter().position(|(row, _)| *row == name);
        self.report.rows.sort_by_key(|(row, _)| place(row));
        self.report.figures.sort_by_key(|figure| place(figure.row));
        let verdicts = &mut self.report.verdicts;
        verdicts.sort_by_key(|verdict| place(verdict.row));
        self.circumstances.sort_by_key(|(row, _)| place(row));
        self
    }

    pub fn json(&self) -> Value {
        let mut rows = json!({});
        for (name, circumstances) in &self.circumstances {
            rows[*name] = circumstances.clone();
        }
        let (verdicts, figures) = self.report.json_parts();
        json!({"rows": rows, "verdicts": verdicts, "figures": figures})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bound, Unit};

    const ROWS: [(&str, &str); 2] = [("virtual", "a virtual wire"), ("real", "a real one")];

    fn run(name: &'static str, rate: f64) -> Report {
        let mut report = Report::default();
        report.rows.push((name, "as it was called"));
        for rate in [rate, rate + 1.0, rate + 2.0] {
            report.sample(name, "TCP", "fast", Unit::GbitPerSecond, rate);
        }
        report.judge(name, "TCP, fast", rate, Bound::AtLeast(1.0));
        report.note(format!("measured at {rate}"));
        report
    }

    #[test]
    fn a_row_measured_anew_replaces_its_own_and_leaves_the_others() {
        let mut record = Record::default();
        for (name, rate) in [("real", 1.0), ("virtual", 5.0), ("real", 7.0)] {
            record.replace(name, &run(name, rate), &json!({"cores": 2}));
        }
        let json = record.sorted(&ROWS).json();
        let again = Record::parse(&json, &ROWS);
        assert_eq!(again.json(), json);
        assert_eq!(again.report.rows, ROWS);
        assert!((again.report.median("real", "TCP", "fast") - 8.0).abs() < 1e-9);
        assert!((again.report.median("virtual", "TCP", "fast") - 6.0).abs() < 1e-9);
        assert_eq!(json["rows"]["real"]["notes"], json!(["measured at 7"]));
        assert_eq!(again.report.verdicts.len(), 2);
    }

    #[test]
    fn a_row_that_nobody_knows_is_forgotten() {
        let mut record = Record::default();
        record.replace("old", &run("old", 1.0), &json!({}));
        let again = Record::parse(&record.json(), &ROWS);
        assert!(again.report.figures.is_empty() && again.report.rows.is_empty());
    }

    #[test]
    fn without_a_record_there_is_an_empty_one() {
        let record = Record::parse(&Value::Null, &ROWS);
        assert!(record.report.rows.is_empty());
    }
}
