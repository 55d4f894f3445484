//! `weft`: asks the daemon how it stands, looks for what keeps a node from working, and clears a
//! node of all that is ours.

mod arguments;
mod ask;
mod docker_opts;
mod doctor;
mod install;
mod migrate;
mod stand_ins;
mod suite;

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::cleanup::{self, Outcome, Places};
use crate::http::SOCKET;
use arguments::{Command, Options};
use ask::Silence;

/// Where it writes.
#[expect(missing_debug_implementations, reason = "writers have nothing to show")]
pub struct Terminal<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub colours: bool,
}

/// `args` with what the program was called by, which decides what it does. Answers what the
/// process ends with.
pub fn run(
    args: impl IntoIterator<Item = String>,
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> u8 {
    let mut args = args.into_iter();
    let called = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let name = called.rsplit('/').next().unwrap_or_default();
    let written = match stand_ins::run(name, &args, &env, terminal) {
        Some(written) => written,
        None => command(args, env, terminal),
    };
    // A reader that goes away (`weft status | head`) has read what it wanted.
    written.unwrap_or(FINE)
}

fn command(
    args: Vec<String>,
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    match arguments::parse(args, &env) {
        Ok(Command::Help(text)) => write!(terminal.out, "{text}").map(|()| FINE),
        Ok(Command::Version) => {
            writeln!(terminal.out, "weft {}", env!("CARGO_PKG_VERSION")).map(|()| FINE)
        }
        Ok(Command::Status(options)) => status(&options, terminal),
        Ok(Command::Doctor(options)) => examine(&options, terminal),
        Ok(Command::Cleanup(options)) => clean_up(&options, terminal),
        Ok(Command::Install(options)) => install::install(&options, env, terminal),
        Ok(Command::Uninstall(options)) => install::uninstall(&options, terminal),
        Ok(Command::Migrate(args)) => migrate::run(args, env, terminal),
        Ok(Command::DockerOpts(args)) => docker_opts::run(args, env, terminal),
        Err(mistake) => writeln!(terminal.err, "weft: {mistake}").map(|()| MISTAKEN),
    }
}

fn status(options: &Options, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let target = match (options.json, terminal.colours) {
        (true, _) => "/status",
        (false, true) => "/status?text&colour",
        (false, false) => "/status?text",
    };
    match ask::get(&options.run_dir.join(SOCKET), target) {
        Ok(text) => write!(terminal.out, "{text}").map(|()| FINE),
        Err(silence) => writeln!(terminal.err, "weft: {silence}").map(|()| NO_ANSWER),
    }
}

fn examine(options: &Options, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let checks = doctor::examine(options);
    match options.json {
        true => writeln!(terminal.out, "{:#}", doctor::to_json(&checks))?,
        false => doctor::write(&checks, terminal)?,
    }
    Ok(match doctor::is_well(&checks) {
        true => FINE,
        false => WRONG,
    })
}

fn clean_up(options: &Options, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let places = Places {
        subnet_file: options.subnet_file.clone(),
        run_dir: options.run_dir.clone(),
        state_dir: options.state_dir.clone(),
    };
    let Outcome { removed, problems } = match cleanup::clean_up(&places) {
        Ok(outcome) => outcome,
        Err(refusal) => {
            writeln!(terminal.err, "weft: nothing is removed: {refusal}")?;
            return Ok(WRONG);
        }
    };
    if options.json {
        let told = json!({"removed": removed, "problems": problems});
        writeln!(terminal.out, "{told:#}")?;
    } else {
        for thing in &removed {
            writeln!(terminal.out, "removed {thing}")?;
        }
        if removed.is_empty() && problems.is_empty() {
            writeln!(terminal.out, "there is nothing of weftd's here")?;
        }
        for problem in &problems {
            writeln!(terminal.err, "weft: {problem}")?;
        }
    }
    Ok(match problems.is_empty() {
        true => FINE,
        false => WRONG,
    })
}

/// The daemon's own status.
fn ask_status(run_dir: &Path) -> Result<Value, Silence> {
    let socket = run_dir.join(SOCKET);
    let text = ask::get(&socket, "/status")?;
    serde_json::from_str(&text).map_err(|_| Silence::garbled(&socket))
}

const FINE: u8 = 0;
const WRONG: u8 = 1;
const MISTAKEN: u8 = 2;
const NO_ANSWER: u8 = 3;

#[cfg(test)]
mod tests;
