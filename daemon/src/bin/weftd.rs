//! The daemon: `weftd` takes flanneld's command line.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use weft_daemon::daemon;
use weft_daemon::lease::Identity;
use weft_daemon::options::{Command, Options};

fn main() -> ExitCode {
    let command = Options::parse(env::args().skip(1), |name| env::var(name).ok());
    match command {
        Ok(Command::Run(options)) => start(&options),
        Ok(Command::Cleanup(_)) => ExitCode::FAILURE,
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
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .init();
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
    let identity = Identity {
        machine: format!("{:?}", options.node.machine_id),
        node: options.node.name.clone().unwrap_or_else(|| "node".into()),
    };
    for key in ["ip_forward"] {
        let key = weft_net::sysctl::Key::new(["net", "ipv4", key]);
        if let Some(Err(error)) = key.map(|key| key.set("1")) {
            tracing::warn!("{error}");
        }
    }
    daemon::run(options, &identity)
}

fn say(to: &mut impl Write, text: &str) {
    // Who closed the pipe does not want to know.
    let _ = writeln!(to, "{text}");
}
