use std::{env, path::Path, process::ExitCode};

/// The name under which the program was called is the plugin that was meant.
fn main() -> ExitCode {
    let called = env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    weft_cni::run(&name.to_string_lossy(), weft_plugins::SUITE)
}
