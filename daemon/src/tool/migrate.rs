//! `weft migrate`: `--plan` tells what weftd would change on this node before it is started, and
//! `--back` takes away what flanneld would not know of after it.

use std::io;

use super::{FINE, MISTAKEN, Terminal, WRONG};
use crate::firewall::Firewall;
use crate::lock::Lock;
use crate::migrate;
use crate::options::{Command, Options};

/// `args` are weftd's own, beside what is asked for.
pub(super) fn run(
    args: Vec<String>,
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let asked = |name: &str| {
        let mut args = args.iter();
        args.any(|arg| arg.trim_start_matches('-') == name && arg.starts_with('-'))
    };
    let (plan, back, as_json) = (asked("plan"), asked("back"), asked("json"));
    if plan == back {
        writeln!(terminal.err, "weft: {HOW}")?;
        return Ok(MISTAKEN);
    }
    let weftds = args.into_iter().filter(|arg| {
        let name = arg.trim_start_matches('-');
        !matches!(name, "plan" | "back" | "json")
    });
    let options = match Options::parse(weftds, env) {
        Ok(Command::Run(options)) => options,
        Ok(_) => {
            writeln!(terminal.err, "weft: {HOW}")?;
            return Ok(MISTAKEN);
        }
        Err(mistake) => {
            writeln!(terminal.err, "weft: {mistake}")?;
            return Ok(MISTAKEN);
        }
    };
    if back {
        return go_back(&options, terminal);
    }
    match migrate::plan(&options) {
        Ok(migration) => {
            let told = migration.told();
            match as_json {
                true => writeln!(terminal.out, "{:#}", told.to_json())?,
                false => write!(terminal.out, "{told}")?,
            }
            Ok(FINE)
        }
        Err(why) => {
            writeln!(
                terminal.err,
                "weft: what would change cannot be told: {why}"
            )?;
            Ok(WRONG)
        }
    }
}

fn go_back(options: &Options, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let removed = Lock::take(&options.run_dir)
        .map_err(|e| e.to_string())
        .and_then(|_lock| {
            let firewall = Firewall::open().and_then(|mut firewall| firewall.remove_guard());
            firewall.map_err(|e| e.to_string())
        });
    match removed {
        Ok(was_there) => {
            let what = match was_there {
                true => "the peer guard is removed: it knows no node that comes after weftd",
                false => "there is no peer guard",
            };
            writeln!(
                terminal.out,
                "{what}. All else stays as it is, and flanneld goes on from it: start it"
            )?;
            Ok(FINE)
        }
        Err(why) => {
            writeln!(terminal.err, "weft: nothing is changed: {why}")?;
            Ok(WRONG)
        }
    }
}

const HOW: &str = "weft migrate --plan [--json] and weftd's own command line tells what weftd, \
    started so, would change on this node, and changes nothing; weft migrate --back, once weftd \
    is stopped, makes the node ready for flanneld";
