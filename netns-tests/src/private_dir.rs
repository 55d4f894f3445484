//! Directories that are empty and private, whatever the host has there.
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};

use crate::world::context;

/// Covers an existing directory with an empty one in memory.
pub(crate) fn hide(dir: &Path) -> io::Result<()> {
    mount(
        Some("weft-test"),
        dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .map_err(context(format!("mount a private {}", dir.display())))
}

/// An empty private directory at `path`. Where the host has none, its nearest
/// existing parent is replaced by a copy made of bind mounts, because a world
/// leaves nothing on the host, not even an empty directory.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return hide(path);
    }
    let parent = path.ancestors().find(|ancestor| ancestor.is_dir());
    mirror(parent.unwrap_or_else(|| Path::new("/")))?;
    fs::create_dir_all(path)
}

fn mirror(dir: &Path) -> io::Result<()> {
    let copy = staging_dir()?;
    hide(&copy)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (from, to) = (entry.path(), copy.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&to)?;
        } else {
            File::create(&to)?;
        }
        bind(&from, &to)?;
    }
    mount(
        Some(&copy),
        dir,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )
    .map_err(context(format!("replace {}", dir.display())))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .map_err(context(format!("bind {}", from.display())))
}

fn staging_dir() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(format!("/run/weft-test/mirror-{number}"));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
