//! An image of one layer, as an archive that is both an OCI layout and what `docker save` writes:
//! containerd, CRI-O, podman and any docker take it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::archive::{Archive, Entry};
use crate::reference::Reference;

/// As Go calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// Of the executables that a target triple means.
    pub fn of_triple(triple: &str) -> Option<Self> {
        match triple.split('-').next()? {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// Writes the image whose root file system is `root`.
pub fn write(
    root: &Path,
    reference: &Reference,
    architecture: Architecture,
    to: impl Write,
) -> io::Result<()> {
    let mut layer = Archive::new(Vec::new());
    add_all(&mut layer, root, "")?;
    let layer = Blob::new(LAYER, layer.finish()?);
    let config = Blob::new(
        CONFIG,
        config(&layer, architecture).to_string().into_bytes(),
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
    let index = index(&manifest, reference, architecture).to_string();
    let for_docker = json!([{
        "Config": config.path(),
        "RepoTags": [reference.to_string()],
        "Layers": [layer.path()],
    }]);
    let mut archive = Archive::new(to);
    for dir in ["blobs/", "blobs/sha256/"] {
        archive.add(dir, Entry::Directory)?;
    }
    for blob in [&layer, &config, &manifest] {
        archive.add(&blob.path(), file(&blob.bytes))?;
    }
    archive.add("index.json", file(index.as_bytes()))?;
    archive.add("manifest.json", file(for_docker.to_string().as_bytes()))?;
    archive.add("oci-layout", file(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    archive.finish().map(drop)
}

struct Blob {
    kind: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        let digest = Sha256::digest(&bytes);
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            kind,
            digest,
            bytes,
        }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.kind,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

/// What runs if nothing else is told is the daemon, as in flannel's image.
fn config(layer: &Blob, architecture: Architecture) -> Value {
    json!({
        "architecture": architecture.name(),
        "os": "linux",
        "config": {"Entrypoint": ["/opt/bin/weftd"], "Env": [PATH]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
    })
}

fn index(manifest: &Blob, reference: &Reference, architecture: Architecture) -> Value {
    let mut descriptor = manifest.descriptor();
    descriptor["platform"] = json!({"architecture": architecture.name(), "os": "linux"});
    descriptor["annotations"] = json!({
        "io.containerd.image.name": reference.to_string(),
        "org.opencontainers.image.ref.name": reference.tag(),
    });
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]})
}

/// Sorted, directories before what is in them.
fn add_all(layer: &mut Archive<Vec<u8>>, dir: &Path, inside: &str) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            layer.add(&format!("{name}/"), Entry::Directory)?;
            add_all(layer, &path, &format!("{name}/"))?;
        } else if kind.is_symlink() {
            let to = fs::read_link(&path)?;
            layer.add(
                &name,
                Entry::Link {
                    to: &to.to_string_lossy(),
                },
            )?;
        } else {
            let bytes = fs::read(&path)?;
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            layer.add(
                &name,
                Entry::File {
                    bytes: &bytes,
                    mode,
                },
            )?;
        }
    }
    Ok(())
}

fn file(bytes: &[u8]) -> Entry<'_> {
    Entry::File { bytes, mode: 0o644 }
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Flannel's manifests call `cp` by its name alone.
const PATH: &str = "PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin";
