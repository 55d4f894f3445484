//! What the manifests of flannel call in flannel's images, by the names that they call it: with
//! only the images changed, they work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{FINE, MISTAKEN, Terminal, WRONG, docker_opts};
use crate::place::{Error, Place};

/// What a program called `name` does, if it is one of them.
pub(super) fn run(
    name: &str,
    args: &[String],
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> Option<io::Result<u8>> {
    Some(match name {
        "cp" => copy(name, args, terminal, |place, from, name| {
            place.copy(from, name)
        }),
        "install-conf" => copy(name, args, terminal, install_conf),
        "mk-docker-opts.sh" => docker_opts::run(args.to_owned(), env, terminal),
        _ => return None,
    })
}

/// A runtime that starts the file meanwhile gets the old or the new; `cp` alone would say that it
/// is busy, or write into what runs.
fn copy(
    name: &str,
    args: &[String],
    terminal: &mut Terminal<'_>,
    into: impl Fn(&Place, &Path, &str) -> Result<(), Error>,
) -> io::Result<u8> {
    let files: Vec<&String> = args.iter().filter(|arg| *arg != "-f").collect();
    let [from, to] = files[..] else {
        writeln!(
            terminal.err,
            "{name}: called with {} names: this one copies one file to one place: {name} [-f] \
             SOURCE TARGET",
            files.len()
        )?;
        return Ok(MISTAKEN);
    };
    let from = Path::new(from);
    let to = target(from, Path::new(to));
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
    let target = to.file_name().and_then(|name| name.to_str());
    let copied = Place::open(dir.unwrap_or_else(|| Path::new(".")))
        .and_then(|place| into(&place, from, target.unwrap_or_default()));
    match copied {
        Ok(()) => Ok(FINE),
        Err(error) => {
            writeln!(terminal.err, "{name}: {error}")?;
            Ok(WRONG)
        }
    }
}

fn install_conf(place: &Place, from: &Path, name: &str) -> Result<(), Error> {
    let bytes = fs::read(from).map_err(|why| Error::new("read", from, why))?;
    place.put(name, &bytes).map(drop)
}

/// Into a directory under its own name, as `cp` does.
fn target(from: &Path, to: &Path) -> PathBuf {
    match from.file_name() {
        Some(name) if to.is_dir() => to.join(name),
        Some(_) | None => to.to_owned(),
    }
}
