//! The tables of iptables-legacy, which only its own program can look into and change. It is run
//! for tables that are in use already, since looking creates them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;

use super::Repair;
use super::flannels::{self, CHAINS, Flannels};
use super::passage::{COMMENT, Edit, End, Filter, Handle, Match};
use super::save::Saved;
use super::wanted::of_family;

/// What was found and done in the tables of one family.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The filter table as it is left, if it is in use and can be looked into.
    pub(super) filter: Option<Filter>,
    pub(super) repairs: Vec<Repair>,
    pub(super) notes: Vec<String>,
}

/// Whether any table of iptables-legacy is in use in this network namespace.
pub(super) fn is_in_use(v6: bool) -> bool {
    !tables_in_use(v6).is_empty()
}

/// What is wanted of both families' tables.
pub(super) struct Wanted<'a> {
    /// Of all pods.
    pub(super) networks: &'a [IpNetwork],
    /// Whether their packets are accepted.
    pub(super) forward: bool,
    pub(super) flannels: &'a mut Flannels,
}

/// Has the filter table accept pods' packets, and removes what flanneld left.
pub(super) fn keep(wanted: &mut Wanted<'_>, v6: bool) -> Outcome {
    let in_use = tables_in_use(v6);
    let mut outcome = Outcome::default();
    for table in ["filter", "nat"] {
        if in_use.contains(table) {
            keep_table(table, wanted, v6, &mut outcome);
        }
    }
    outcome
}

/// The filter table as it stands, if it is in use and can be looked into.
pub(super) fn filter(v6: bool) -> Option<Filter> {
    saved("filter", v6)?.filter("FORWARD")
}

/// What would be removed of what flanneld left.
pub(super) fn removals(networks: &[IpNetwork], v6: bool) -> Vec<Repair> {
    let networks = of_family(networks, v6);
    let of_table = |table| {
        let mut script = Script::default();
        if let Some(saved) = saved(table, v6) {
            script.remove_flannels(table, &saved, &networks);
        }
        script.repairs(table, v6)
    };
    ["filter", "nat"].into_iter().flat_map(of_table).collect()
}

fn saved(table: &str, v6: bool) -> Option<Saved> {
    let save = tables_in_use(v6)
        .contains(table)
        .then(|| find(program(v6), "save"))??;
    let text = run(&save, &["-t", table], "").ok()?;
    Some(Saved::parse(&text))
}

fn keep_table(table: &str, wanted: &mut Wanted<'_>, v6: bool, outcome: &mut Outcome) {
    let program = program(v6);
    let networks = of_family(wanted.networks, v6);
    let accepted = if wanted.forward { &networks[..] } else { &[] };
    let (Some(save), Some(restore)) = (find(program, "save"), find(program, "restore")) else {
        outcome.notes.push(without_a_tool(program, table, accepted));
        return;
    };
    let saved = match run(&save, &["-t", table], "") {
        Ok(text) => Saved::parse(&text),
        Err(why) => return outcome.notes.push(failed(program, table, &why)),
    };
    let mut script = Script::default();
    let mut after = None;
    if table == "filter"
        && let Some(filter) = saved.filter("FORWARD")
    {
        let edits = filter.edits(accepted);
        outcome.filter = Some(filter.clone());
        after = Some(script.edit(filter, &edits));
    }
    let mut its = Script::default();
    its.remove_flannels(table, &saved, &networks);
    if !its.lines.is_empty() {
        if wanted.flannels.may_go() {
            script.lines.push_str(&its.lines);
            script.done.extend(its.done);
        } else {
            let what = format!("what stands in the {table} table of {program}-legacy");
            outcome.notes.extend(wanted.flannels.note(&what));
        }
    }
    if script.lines.is_empty() {
        return;
    }
    let text = format!("*{table}\n{}COMMIT\n", script.lines);
    match run(&restore, &["--noflush", "--wait=5"], &text) {
        Ok(_) => {
            outcome.filter = after.or_else(|| outcome.filter.take());
            outcome.repairs.extend(script.repairs(table, v6));
        }
        Err(why) => outcome.notes.push(failed(program, table, &why)),
    }
}

/// What a restore is fed with, and what that does.
#[derive(Default)]
struct Script {
    lines: String,
    done: Vec<String>,
}

impl Script {
    /// The filter after the edits. Rules are told by their numbers, which each edit changes.
    fn edit(&mut self, filter: Filter, edits: &[Edit]) -> Filter {
        edits.iter().fold(filter, |filter, edit| {
            match edit {
                Edit::Insert {
                    chain,
                    accept,
                    before,
                } => {
                    let rule = arguments(accept);
                    let number = before.as_ref().and_then(|h| filter.number_of(chain, h));
                    let line = match number {
                        Some(number) => format!("-I {chain} {number} {rule}"),
                        None => format!("-A {chain} {rule}"),
                    };
                    self.add(&line, format!("`{chain} {rule}` inserted"));
                }
                Edit::Delete {
                    handle: Handle::Line(line),
                    ..
                } => self.add(&format!("-D {line}"), format!("`{line}` deleted")),
                Edit::Delete {
                    handle: Handle::Number(_) | Handle::None,
                    ..
                } => {}
            }
            filter.edited(std::slice::from_ref(edit))
        })
    }

    fn remove_flannels(&mut self, table: &str, saved: &Saved, networks: &[IpNetwork]) {
        for (_, base, chain) in CHAINS.iter().filter(|(of, ..)| *of == table) {
            for step in flannels::rules(table, &saved.steps(base), networks) {
                if let Handle::Line(line) = &step.handle {
                    self.add(&format!("-D {line}"), format!("`{line}` deleted"));
                }
            }
            if !saved.has_chain(chain) {
                continue;
            }
            let mut is_needed = false;
            for (from, line) in saved.leading_to(chain) {
                if from == *base {
                    self.add(&format!("-D {line}"), format!("`{line}` deleted"));
                } else {
                    is_needed = true;
                }
            }
            self.add(&format!("-F {chain}"), format!("chain {chain} flushed"));
            if !is_needed {
                self.add(&format!("-X {chain}"), format!("chain {chain} deleted"));
            }
        }
    }

    fn repairs(self, table: &str, v6: bool) -> Vec<Repair> {
        let program = program(v6);
        let repair = |what| Repair {
            table: format!("{program}-legacy {table}"),
            what,
        };
        self.done.into_iter().map(repair).collect()
    }

    fn add(&mut self, line: &str, what: String) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.lines, "{line}");
        self.done.push(what);
    }
}

pub(super) const fn program(v6: bool) -> &'static str {
    if v6 { "ip6tables" } else { "iptables" }
}

fn arguments(accept: &Match) -> String {
    let option = match accept.end {
        End::Source => "-s",
        End::Destination => "-d",
    };
    format!(
        "{option} {} -m comment --comment \"{COMMENT}\" -j ACCEPT",
        accept.network
    )
}

/// The kernel lists them once somebody has used them; without the module there is no such file.
fn tables_in_use(v6: bool) -> BTreeSet<String> {
    let name = if v6 {
        "ip6_tables_names"
    } else {
        "ip_tables_names"
    };
    let names = std::fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    names
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The program under the name that says which it is; or under the plain one, if that leads to it.
fn find(program: &str, tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let always = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let directories: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(always)
        .collect();
    let named = |name: String| {
        let mut places = directories.iter().map(|directory| directory.join(&name));
        places.find(|place| place.is_file())
    };
    named(format!("{program}-legacy-{tool}"))
        .or_else(|| named(format!("{program}-{tool}")).filter(|place| is_legacy(place)))
}

fn is_legacy(program: &Path) -> bool {
    let file = program.canonicalize();
    let file = file.as_deref().unwrap_or(program).file_name();
    let name = file.unwrap_or_default().to_string_lossy();
    name.contains("legacy") || name == "xtables-multi"
}

fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It has given up before the end, and its exit status says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn failed(program: &str, table: &str, why: &io::Error) -> String {
    format!(
        "the {table} table of {program}-legacy is in use and cannot be looked after: {why}. Look at it with `{program}-legacy-save -t {table}`"
    )
}

fn without_a_tool(program: &str, table: &str, networks: &[IpNetwork]) -> String {
    if table == "nat" {
        return format!(
            "the nat table of {program}-legacy is in use and {program}-legacy-restore is not installed, so that a chain FLANNEL-POSTRTG of flanneld, if there is one, stays. Remove it: `{program}-legacy -t nat -D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG; {program}-legacy -t nat -F FLANNEL-POSTRTG; {program}-legacy -t nat -X FLANNEL-POSTRTG`"
        );
    }
    let commands: Vec<String> = networks
        .iter()
        .flat_map(|network| [End::Source, End::Destination].map(|end| Match::inside(end, *network)))
        .map(|accept| format!("{program}-legacy -I FORWARD {}", arguments(&accept)))
        .collect();
    format!(
        "the filter table of {program}-legacy is in use and {program}-legacy-restore is not installed, so that nobody here knows whether its FORWARD chain drops pods' packets. If `{program}-legacy -S FORWARD` begins with `-P FORWARD DROP`: `{}`",
        commands.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        Saved::parse(
            ":FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n:mine - [0:0]\n\
             -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
             -A FORWARD -s 10.9.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT\n\
             -A FORWARD -i eth0 -j DROP\n\
             -A FORWARD -j REJECT\n",
        )
    }

    #[test]
    fn one_script_makes_place_for_ours_and_clears_flannel_s_away() {
        let networks: Vec<IpNetwork> = vec!["10.244.0.0/16".parse().unwrap()];
        let mut script = Script::default();
        let filter = saved().filter("FORWARD").unwrap();
        let edits = filter.edits(&networks);
        script.edit(filter, &edits);
        script.remove_flannels("filter", &saved(), &networks);
        assert_eq!(
            script.lines,
            "-D FORWARD -s 10.9.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT\n\
             -I FORWARD 3 -s 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT\n\
             -I FORWARD 4 -d 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT\n\
             -D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
             -F FLANNEL-FWD\n\
             -X FLANNEL-FWD\n"
        );
        assert_eq!(script.done.len(), 6);
    }

    #[test]
    fn without_the_program_the_note_says_what_to_run() {
        let note = without_a_tool("iptables", "filter", &["10.244.0.0/16".parse().unwrap()]);
        assert!(
            note.contains("iptables-legacy -I FORWARD -s 10.244.0.0/16 -m comment"),
            "{note}"
        );
    }
}
