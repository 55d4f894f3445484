//! The operator's tool: see [`weft_daemon::tool`].

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use weft_daemon::tool::{self, Terminal};

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let mut err = io::stderr().lock();
    let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        colours,
    };
    let code = tool::run(
        std::env::args(),
        |name| std::env::var(name).ok(),
        &mut terminal,
    );
    ExitCode::from(code)
}
