//! What a delegate was given at ADD, kept for its DEL, in files that the Go plugin can read too.
//!
//! The Go plugin keeps one file a container, `<container>`, which does not say whose interface it
//! is. So does this one for a container's first attachment, and an attachment that finds this name
//! taken has `<container>:<ifname>` to itself: neither a container's nor an interface's name can
//! hold a colon, so no file is anybody else's. An attachment looks for its own name first; the
//! common one is its own if it holds a configuration of its network. Should two interfaces be on
//! one network, and one of them be deleted twice, then the other finds no file, which does no harm:
//! its configuration is made anew.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use weft_cni::{Attachments, Call, Conf, Error, Result};

use super::delegate_type;
use crate::owner;

/// The places where one attachment's configuration may be.
#[derive(Clone, Debug)]
pub struct Scratch<'a> {
    dir: &'a Path,
    network: &'a str,
    common: PathBuf,
    own: PathBuf,
    temporary: PathBuf,
}

/// What was found for an attachment.
#[derive(Clone, Debug)]
pub enum Found {
    Conf(Conf, PathBuf),
    /// A file of this attachment from which no configuration can be had.
    Spoilt(PathBuf),
    Nothing,
}

impl<'a> Scratch<'a> {
    pub fn of(call: &'a Call, dir: &'a Path) -> Self {
        let (container, ifname) = (call.container_id(), call.ifname());
        let mark = temporary_mark(call.network());
        Self {
            dir,
            network: call.network(),
            common: dir.join(container),
            own: dir.join(format!("{container}:{ifname}")),
            temporary: dir.join(format!("{mark}{container}:{ifname}")),
        }
    }

    /// Saves `conf` whole or not at all, and never over another attachment's.
    pub fn save(&self, conf: &Map<String, Value>) -> Result<PathBuf> {
        self.write(&as_go_writes(conf)).map_err(|why| {
            // The error that counts is the one that is returned.
            let _ = remove(&self.temporary);
            Error::io(format!(
                "could not save the delegate's configuration in {}: {why}",
                self.dir.display()
            ))
            .with_details("\"dataDir\" in the configuration names the directory")
        })
    }

    fn write(&self, text: &str) -> io::Result<PathBuf> {
        let mut file = match self.create() {
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(self.dir)?;
                self.create()?
            }
            // An ADD that was killed left it, and it may be the common file by another name.
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                remove(&self.temporary)?;
                self.create()?
            }
            created => created?,
        };
        // No fsync: what a crash of the whole node takes, DEL makes anew.
        file.write_all(text.as_bytes())?;
        remove(&self.own)?;
        // Linking, unlike renaming, never takes a name that is taken.
        if fs::hard_link(&self.temporary, &self.common).is_ok() {
            remove(&self.temporary)?;
            return Ok(self.common.clone());
        }
        fs::rename(&self.temporary, &self.own)?;
        Ok(self.own.clone())
    }

    fn create(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&self.temporary)
    }

    pub fn find(&self) -> Found {
        for path in [&self.own, &self.common] {
            let conf = match fs::read(path) {
                Err(why) if is_nowhere(&why) => continue,
                read => read.ok().and_then(|text| parse(&text)),
            };
            if conf.as_ref().is_some_and(|conf| !is_of(conf, self.network)) {
                continue;
            }
            return match conf.and_then(usable) {
                Some(conf) => Found::Conf(conf, path.clone()),
                None => Found::Spoilt(path.clone()),
            };
        }
        Found::Nothing
    }

    /// Removes `file`, where there is one, and what an ADD that was killed left beside it.
    pub fn forget(&self, file: Option<&Path>) -> Result<()> {
        let paths = file.into_iter().chain([self.temporary.as_path()]);
        Error::all(paths.filter_map(|path| forget(path).err()).collect())
    }
}

/// Removes the files of `network` in `dir` whose attachments live no more.
///
/// A common file's interface is unknown, so any living one of its container keeps it; a file that
/// cannot be read may be another network's, and stays.
pub fn prune(dir: &Path, network: &str, living: &Attachments) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => {
            entries.map_err(|why| Error::io(format!("could not list {}: {why}", dir.display())))?
        }
    };
    let mark = temporary_mark(network);
    let mut failures = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        let dead = match name.strip_prefix(&mark) {
            Some(name) => !lives(name, living),
            None => !name.starts_with('.') && !lives(name, living) && belongs(&path, network),
        };
        if dead {
            failures.extend(forget(&path).err());
        }
    }
    Error::all(failures)
}

fn lives(name: &str, living: &Attachments) -> bool {
    match name.split_once(':') {
        Some((container, ifname)) => living.contains(container, ifname),
        None => living.has_container(name),
    }
}

fn belongs(path: &Path, network: &str) -> bool {
    let conf = fs::read(path).ok().and_then(|text| parse(&text));
    conf.is_some_and(|conf| is_of(&conf, network))
}

/// A saved configuration, in whichever form a plugin of any age left it; none in what is no JSON.
pub fn parse(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(text).ok()
}

/// A configuration with which its delegate can be called.
fn usable(conf: Map<String, Value>) -> Option<Conf> {
    let conf = Conf::new(conf).ok()?;
    delegate_type(&conf).is_ok().then_some(conf)
}

fn is_of(conf: &Map<String, Value>, network: &str) -> bool {
    conf.get("name").is_some_and(|name| name == network)
}

/// The text that Go's encoder makes of the same values, which also stand in HTML there.
pub fn as_go_writes(conf: &Map<String, Value>) -> String {
    let text = Value::from(conf.clone()).to_string();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// What the names of half-written files of `network` begin with: no container's name does.
fn temporary_mark(network: &str) -> String {
    format!(".{}:", owner::network_mark(network))
}

fn forget(path: &Path) -> Result<()> {
    remove(path).map_err(|why| {
        Error::io(format!(
            "could not remove the delegate's configuration {}: {why}",
            path.display()
        ))
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // A read-only file system says so of what it does not have, too.
        Err(why) if why.kind() == io::ErrorKind::ReadOnlyFilesystem && !path.exists() => Ok(()),
        Err(why) if !is_nowhere(&why) => Err(why),
        _ => Ok(()),
    }
}

/// A container's name may be longer than a file's.
fn is_nowhere(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const OLD_FORM: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"routes":[{"dst":"172.20.0.0/16"}],"subnet":"172.20.1.0/24","type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;

    #[test]
    fn a_file_of_an_old_node_is_read_and_written_again_byte_for_byte() {
        assert_eq!(as_go_writes(&parse(OLD_FORM.as_bytes()).unwrap()), OLD_FORM);
    }

    #[test]
    fn what_go_escapes_is_escaped() {
        let conf = json!({"a": "<b> & \u{2028}\"c\" ä\n"});
        let text = as_go_writes(conf.as_object().unwrap());
        assert_eq!(text, r#"{"a":"\u003cb\u003e \u0026 \u2028\"c\" ä\n"}"#);
    }

    proptest! {
        #[test]
        fn what_is_saved_is_read_again(key in "\\PC{0,8}", value in "\\PC{0,16}", number in any::<i64>()) {
            let mut conf = Map::new();
            conf.insert(key, value.into());
            conf.insert("number".into(), number.into());
            prop_assert_eq!(parse(as_go_writes(&conf).as_bytes()), Some(conf));
        }

        #[test]
        fn no_content_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..64), cut in 0..OLD_FORM.len()) {
            prop_assert_eq!(parse(&text), serde_json::from_slice(&text).ok());
            prop_assert_eq!(parse(&OLD_FORM.as_bytes()[..cut]), None);
        }
    }
}
