//! `image ROOT REFERENCE TRIPLE FILE`: the directory as an image, in an archive.

use std::env;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::ExitCode;

use weft_manifests::{Architecture, Reference, write};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("image: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let [root, reference, triple, file] = args else {
        return Err("called as: image ROOT REFERENCE TRIPLE FILE".to_owned());
    };
    let reference: Reference = reference.parse()?;
    let architecture = Architecture::of_triple(triple)
        .ok_or_else(|| format!("images are made of x86_64 and aarch64, not of {triple}"))?;
    let to = File::create(file).map_err(|why| format!("create {file}: {why}"))?;
    write(
        Path::new(root),
        &reference,
        architecture,
        BufWriter::new(to),
    )
    .map_err(|why| format!("write the image of {root} to {file}: {why}"))
}
