//! What a run is to measure, and how long it may take.
use std::time::Duration;

use super::step::{Extent, steps};
use super::{Contestant, DEFAULT, Family, Setting, Wire};

#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) rows: Vec<&'static Row>,
    pub(super) measurements: Vec<Measurement>,
    pub(super) contestants: Vec<Contestant>,
    pub(super) pace: Pace,
    /// A target that is missed fails the run.
    pub(super) strict: bool,
    /// Whatever rows there are have everybody in them, at full length: they are worth keeping.
    pub(super) complete: bool,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    SideBySide(Setting),
    Idle,
    Integrity,
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measurement {
    Tcp,
    Flooded,
    LossFree,
    Trips,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) quick: bool,
    pub(super) rounds: u16,
    /// Of TCP streams alone, between those who are promised something of, beside.
    pub(super) extra_rounds: u16,
    /// A TCP measurement.
    pub(super) seconds: u16,
    /// A flood, or a series of round trips.
    pub(super) moment: Duration,
    /// One rate of a search.
    pub(super) probe: Duration,
    pub(super) megabytes: u64,
    pub(super) flood: Duration,
}

const MEASUREMENTS: [Measurement; 4] = [
    Measurement::Tcp,
    Measurement::Flooded,
    Measurement::LossFree,
    Measurement::Trips,
];

const fn side_by_side(wire: Wire, inner: Family, outer: Family) -> Kind {
    Kind::SideBySide(Setting { wire, inner, outer })
}

const ROWS: [Row; 9] = [
    Row {
        name: "virtual",
        title: "virtual wire, IPv4",
        kind: side_by_side(Wire::Virtual, Family::V4, Family::V4),
    },
    Row {
        name: "real",
        title: "real 1500-byte packets, IPv4",
        kind: side_by_side(Wire::Real, Family::V4, Family::V4),
    },
    Row {
        name: "unmerged",
        title: "real 1500-byte packets, IPv4, receive GRO off",
        kind: side_by_side(Wire::Unmerged, Family::V4, Family::V4),
    },
    Row {
        name: "virtual6",
        title: "virtual wire, IPv6 pods",
        kind: side_by_side(Wire::Virtual, Family::V6, Family::V4),
    },
    Row {
        name: "real6",
        title: "real 1500-byte packets, IPv6 pods",
        kind: side_by_side(Wire::Real, Family::V6, Family::V4),
    },
    Row {
        name: "outer6",
        title: "virtual wire, IPv6 pods on IPv6 nodes",
        kind: side_by_side(Wire::Virtual, Family::V6, Family::V6),
    },
    Row {
        name: "idle",
        title: "a path that nobody uses",
        kind: Kind::Idle,
    },
    Row {
        name: "integrity",
        title: "files both ways while packets are lost and disordered",
        kind: Kind::Integrity,
    },
    Row {
        name: "flood",
        title: "TCP while somebody floods the port",
        kind: Kind::Flood,
    },
];
/// In an answer that is wanted soon.
const QUICK: [&str; 5] = ["virtual", "real", "idle", "integrity", "flood"];

const QUICK_PACE: Pace = Pace {
    quick: true,
    rounds: 1,
    extra_rounds: 0,
    seconds: 1,
    moment: Duration::from_millis(500),
    probe: Duration::from_millis(150),
    megabytes: 32,
    flood: Duration::from_secs(3),
};
/// A row takes at most four minutes, all of them less than twenty.
const FULL_PACE: Pace = Pace {
    quick: false,
    rounds: 3,
    extra_rounds: 6,
    seconds: 1,
    moment: Duration::from_millis(800),
    probe: Duration::from_millis(200),
    megabytes: 256,
    flood: Duration::from_secs(15),
};

impl Plan {
    /// `Err` is how it is used.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let quick = arguments.iter().any(|word| word == "--quick");
        let mut plan = Self {
            rows: Vec::new(),
            measurements: Vec::new(),
            contestants: DEFAULT.to_vec(),
            pace: if quick { QUICK_PACE } else { FULL_PACE },
            strict: false,
            complete: !quick,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            plan.take(word, &mut words)
                .ok_or_else(|| format!("what to make of {word}?\n{}", usage()))?;
        }
        plan.complete &= plan.measurements.is_empty();
        if plan.rows.is_empty() {
            let wanted = |row: &&Row| !quick || QUICK.contains(&row.name);
            plan.rows = ROWS.iter().filter(wanted).collect();
        }
        if plan.measurements.is_empty() {
            plan.measurements = MEASUREMENTS.to_vec();
        }
        Ok(plan)
    }

    /// Whether a figure of that name is among what is measured.
    pub(super) fn measures(&self, what: &str) -> bool {
        let steps = steps(&self.measurements, Extent::Full);
        steps.iter().any(|step| step.what() == what)
    }

    fn take<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a str>) -> Option<()> {
        match word {
            "--quick" => {}
            "--strict" => self.strict = true,
            "--of" => {
                let names = rest.next()?.split(',');
                self.contestants = names.map(Contestant::named).collect::<Option<_>>()?;
                self.complete = false;
            }
            "--rounds" | "--seconds" | "--megabytes" | "--flood-seconds" => {
                self.complete = false;
                self.pace.set(word, rest.next()?.parse().ok()?);
            }
            name => {
                let row = ROWS.iter().find(|row| row.name == name);
                let measurement = MEASUREMENTS.into_iter().find(|known| known.name() == name);
                self.rows.extend(row);
                self.measurements.extend(measurement);
                return (row.is_some() || measurement.is_some()).then_some(());
            }
        }
        Some(())
    }
}

impl Pace {
    fn set(&mut self, word: &str, number: u16) {
        match word {
            "--rounds" => (self.rounds, self.extra_rounds) = (number, 0),
            "--seconds" => self.seconds = number,
            "--megabytes" => self.megabytes = number.into(),
            _ => self.flood = Duration::from_secs(number.into()),
        }
    }
}

/// The names and titles of all rows, in their order.
pub(super) fn rows() -> Vec<(&'static str, &'static str)> {
    ROWS.iter().map(|row| (row.name, row.title)).collect()
}

impl Measurement {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Flooded => "flooded",
            Self::LossFree => "lossfree",
            Self::Trips => "trips",
        }
    }
}

fn usage() -> String {
    let mut text = "path [--quick] [--strict] [--of CONTESTANT,...] [--rounds N] [--seconds N] \
                    [--megabytes N] [--flood-seconds N] [ROW|MEASUREMENT]...\nrows:\n"
        .to_owned();
    for row in &ROWS {
        text += &format!("  {:<10} {}\n", row.name, row.title);
    }
    let join = |names: &[&str]| names.join(" ");
    text += &format!(
        "measurements: {}\n",
        join(&MEASUREMENTS.map(Measurement::name))
    );
    text + &format!(
        "contestants: {}, no-uso no-gso",
        join(&DEFAULT.map(Contestant::name))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Plan::parse(&words)
    }

    #[test]
    fn without_arguments_everything_is_measured_and_kept() {
        let plan = parse("").unwrap();
        assert!(plan.complete);
        assert_eq!((plan.rows.len(), plan.measurements.len()), (9, 4));
        assert!(parse("real idle").unwrap().complete);
        for line in ["real trips", "--of fast,vxlan", "--quick", "--rounds 1"] {
            assert!(!parse(line).unwrap().complete, "{line}");
        }
    }

    #[test]
    fn rows_measurements_and_contestants_are_chosen_by_name() {
        let plan = parse("real trips --of vxlan,fast,no-gso --rounds 5").unwrap();
        assert_eq!(plan.rows[0].name, "real");
        assert_eq!(plan.measurements, [Measurement::Trips]);
        assert_eq!(plan.contestants.len(), 3);
        assert_eq!(plan.pace.rounds, 5);
        assert!(!plan.complete);
    }

    #[test]
    fn what_nobody_knows_is_answered_with_the_usage() {
        for line in ["surreal", "--of pigeons", "--rounds"] {
            assert!(parse(line).unwrap_err().contains("rows:"), "{line}");
        }
    }
}
