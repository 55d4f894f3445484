//! `weft install`, `weft uninstall` and the names that flannel's manifests call, on real file
//! systems and the real kernel: every test in a world of its own.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod kubernetes;
mod leaving;
mod names;
mod plugins;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use weft_netns::{Cmd, World};

const PLUGINS: [&str; 5] = ["bridge", "host-local", "portmap", "loopback", "flannel"];

fn weft(args: &[&str]) -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_weft")).args(args)
}

/// Something that says of itself that it is the suite, of so many bytes.
fn suite(world: &World, version: &str, size: usize) -> PathBuf {
    let path = world.scratch("dist").join("weft-cni");
    let mut bytes = format!("v1.9.1+weft.{version}").into_bytes();
    bytes.resize(size, b'.');
    write(&path, &bytes);
    path
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
