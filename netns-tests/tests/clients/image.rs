//! A container image made by hand, in the format `docker save` writes and
//! everybody reads.
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use weft_netns::{Cmd, World};

pub(crate) const IMAGE: &str = "weft.test/container:latest";
pub(crate) const PROGRAM: &str = "/container";

/// The image as an archive: one layer, one file, which waits unless told more.
pub(crate) fn archive(world: &World) -> PathBuf {
    let dir = world.scratch("image");
    let root = dir.join("root");
    fs::create_dir(&root).expect("create the image's root");
    fs::copy(env!("WEFT_CONTAINER"), root.join("container")).expect("copy the program");
    // What a container keeps in its root must have a place in the image.
    for place in ["dev", "etc", "proc", "sys", "run"] {
        fs::create_dir(root.join(place)).expect("create a directory of the image");
    }
    tar(&root, "../layer.tar", &["."]);

    let layer = format!("sha256:{}", sha256(&dir.join("layer.tar")));
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        // Who runs as process 1 ignores the polite signals.
        "config": {"Entrypoint": [PROGRAM], "Cmd": ["wait"], "StopSignal": "SIGKILL", "Env": env()},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).expect("write the image's config");
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("write the manifest");
    tar(
        &dir,
        "image.tar",
        &["manifest.json", "config.json", "layer.tar"],
    );
    dir.join("image.tar")
}

/// A world ends the processes that carry its mark, and a container's have no
/// other environment than this.
fn env() -> Vec<String> {
    let mark = std::env::var("WEFT_WORLD").expect("a world marks its processes");
    vec!["PATH=/".to_owned(), format!("WEFT_WORLD={mark}")]
}

fn tar(dir: &Path, archive: &str, files: &[&str]) {
    let tar = Cmd::new("tar").arg("-C").arg(dir).arg("-cf");
    tar.arg(dir.join(archive)).args(files).run().ok();
}

fn sha256(file: &Path) -> String {
    let printed = Cmd::new("sha256sum").arg(file).run().ok().stdout;
    let sum = printed.split_whitespace().next();
    sum.expect("a checksum").to_owned()
}

/// As Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
