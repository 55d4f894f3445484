//! The containers of the tests hold one static executable. Cargo links the
//! binaries of a package in one way only, so this one is compiled here.
use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "tests/clients/container.rs";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let executable = PathBuf::from(out).join("container");
    let compiler = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let status = Command::new(compiler)
        .args(["--edition=2024", "-Copt-level=s", "-Cstrip=symbols"])
        .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"])
        .arg("-o")
        .arg(&executable)
        .arg(SOURCE)
        .status()
        .expect("start the compiler");
    if !status.success() {
        // A host without a static C library can still run the demo and most tests; those that
        // need this one say what is missing.
        println!("cargo:warning=cannot link {SOURCE} statically: tests with containers will fail");
    }
    println!("cargo:rustc-env=WEFT_CONTAINER={}", executable.display());
}
