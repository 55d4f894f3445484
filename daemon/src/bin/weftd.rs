//! The daemon: `weftd` takes flanneld's command line.

use std::env;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use weft_daemon::cleanup::Places;
use weft_daemon::notify::Notifier;
use weft_daemon::options::{Command, Options};
use weft_daemon::seat::Seat;
use weft_daemon::{cleanup, daemon, identity, lock, logging};

fn main() -> ExitCode {
    // Under the name that flannel's manifests call it by, it is not to be taken for flanneld.
    let _ = rustix::thread::set_name(c"weftd");
    let command = Options::parse(env::args().skip(1), |name| env::var(name).ok());
    match command {
        Ok(Command::Run(options)) => start(&options),
        Ok(Command::Cleanup(options)) => clean(&options),
        Ok(Command::Version) => {
            say(&mut std::io::stderr(), env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Command::Help(text)) => {
            say(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(mistake) => {
            say(&mut std::io::stderr(), &format!("weftd: {mistake}"));
            ExitCode::from(mistake.exit_code())
        }
    }
}

fn start(options: &Options) -> ExitCode {
    logging::init(options.log);
    for warning in &options.warnings {
        tracing::warn!("{warning}");
    }
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<(), String> {
    lock::refuse_beside_flanneld().map_err(|e| e.to_string())?;
    let seat = Seat::find(options).map_err(|e| e.to_string())?;
    let notifier = Notifier::open(|name| env::var(name).ok())?;
    let known = identity::identity(&options.node, &options.state_dir);
    if let Some(warning) = &known.warning {
        tracing::warn!("{warning}");
    }
    daemon::run(options, &known.identity, Arc::new(notifier), seat)
}

fn clean(options: &Options) -> ExitCode {
    logging::init(options.log);
    let outcome = match cleanup::clean_up(&Places::from(options)) {
        Ok(outcome) => outcome,
        Err(refused) => {
            tracing::error!("{refused}");
            return ExitCode::FAILURE;
        }
    };
    for what in &outcome.removed {
        tracing::info!("removed {what}");
    }
    for problem in &outcome.problems {
        tracing::error!("{problem}");
    }
    if outcome.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(to: &mut impl Write, text: &str) {
    // Who closed the pipe does not want to know.
    let _ = writeln!(to, "{text}");
}
