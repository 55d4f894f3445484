//! The plugin alone, as a program, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cni::run("host-local", &[&weft_ipam::HostLocal])
}
