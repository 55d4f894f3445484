//! What keeps pods from being reached, as far as one node can tell: facts are gathered once, each
//! check judges them and is pure.

mod cni;
mod daemon;
mod facts;
mod kernel;
#[cfg(test)]
mod tests;

use std::io;

use serde_json::{Value, json};

use super::Terminal;
use super::arguments::Options;
use crate::status::tame;
use facts::Facts;

/// One question, and what speaks against a yes.
pub(super) struct Check {
    /// What is so if nothing was found.
    good: &'static str,
    findings: Vec<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    what: String,
    /// What comes of it.
    why: String,
    /// A command, or what to do.
    cure: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// Something does not work because of it.
    Wrong,
    /// Something may.
    Advice,
}

pub(super) fn examine(options: &Options) -> Vec<Check> {
    judge(&Facts::gather(options))
}

fn judge(facts: &Facts) -> Vec<Check> {
    let check = |good, findings| Check { good, findings };
    vec![
        check("weftd runs and is ready", daemon::runs(facts)),
        check(
            "the subnet file says what weftd holds",
            daemon::subnet_file(facts),
        ),
        check("the kernel forwards packets", kernel::forwards(facts)),
        check(
            "bridged packets pass the firewall",
            kernel::bridge_netfilter(facts),
        ),
        check(
            "no chain of others drops pods' packets",
            kernel::forward_hooks(facts),
        ),
        check(
            "tunnel devices are up and their packets fit",
            kernel::devices(facts),
        ),
        check(
            "bridges have the address that pods' plugins want",
            cni::bridges(facts),
        ),
        check("CNI configurations can be read", cni::configurations(facts)),
        check("the CNI plugins they name are there", cni::plugins(facts)),
    ]
}

pub(super) fn is_well(checks: &[Check]) -> bool {
    let mut findings = checks.iter().flat_map(|check| &check.findings);
    findings.all(|finding| finding.grade == Grade::Advice)
}

pub(super) fn to_json(checks: &[Check]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "grade": match finding.grade {
                Grade::Wrong => "wrong",
                Grade::Advice => "advice",
            },
            "what": finding.what,
            "why": finding.why,
            "cure": finding.cure,
        })
    };
    let check = |check: &Check| {
        json!({
            "check": check.good,
            "findings": check.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    };
    json!({
        "well": is_well(checks),
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
    })
}

pub(super) fn write(checks: &[Check], terminal: &mut Terminal<'_>) -> io::Result<()> {
    let colours = terminal.colours;
    let painted = |word: &'static str, colour: u8| match colours {
        true => format!("\x1b[{colour}m{word}\x1b[0m"),
        false => word.to_owned(),
    };
    let out = &mut terminal.out;
    for check in checks {
        if check.findings.is_empty() {
            writeln!(out, "{}      {}", painted("ok", 32), check.good)?;
        }
        for finding in &check.findings {
            let grade = match finding.grade {
                Grade::Wrong => painted("WRONG", 31) + "   ",
                Grade::Advice => painted("advice", 33) + "  ",
            };
            writeln!(out, "{grade}{}", tame(&finding.what))?;
            writeln!(out, "        why:  {}", tame(&finding.why))?;
            writeln!(out, "        cure: {}", tame(&finding.cure))?;
        }
    }
    Ok(())
}

impl Finding {
    fn wrong(what: impl Into<String>, why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            grade: Grade::Wrong,
            what: what.into(),
            why: why.into(),
            cure: cure.into(),
        }
    }

    fn advice(what: impl Into<String>, why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            grade: Grade::Advice,
            ..Self::wrong(what, why, cure)
        }
    }

    fn unseen(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::wrong(
            what,
            format!("what cannot be looked at cannot be judged: {why}"),
            "run weft doctor as root, in the host's network namespace",
        )
    }
}
