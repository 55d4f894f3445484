//! One executable for all plugins: which of them it is, its name says.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let called = env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    weft_cni::run(&name.to_string_lossy(), weft_plugins::SUITE)
}
