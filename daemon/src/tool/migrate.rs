//! `weft migrate --plan`: what weftd would change on this node, told before it is started.

use std::io;

use super::{FINE, MISTAKEN, Terminal, WRONG};
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
    let (plan, as_json) = (asked("plan"), asked("json"));
    if !plan {
        writeln!(terminal.err, "weft: {HOW}")?;
        return Ok(MISTAKEN);
    }
    let weftds = args
        .into_iter()
        .filter(|arg| !matches!(arg.trim_start_matches('-'), "plan" | "json" | ""));
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

const HOW: &str = "weft migrate --plan [--json] and weftd's own command line: it tells what weftd, \
    started so, would change on this node, and changes nothing";
