//! One executable for all plugins: which of them it is, its name says.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    weft_cni::run(&name, weft_plugins::SUITE)
}
