//! The runtime's network configuration, put in place by the daemon itself: not before pods can
//! have a network, and in step with its source from then on.

mod watch;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::conf;
use crate::place::{self, Place, Put};
use watch::{Renewed, Watch};

/// Flannel's own, so that it takes the place of flannel's configuration on a node of flannel's.
pub const NAME: &str = "10-flannel.conflist";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflist {
    pub source: PathBuf,
    pub dir: PathBuf,
    /// Whether configurations of others leave the directory, as runtimes take the first by name.
    pub puts_aside: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "read the CNI configuration {}: {why}; -cni-conf-source names the file that is to stand \
         in the runtime's directory", path.display()
    )]
    Unread { path: PathBuf, why: io::Error },
    #[error("{} is no CNI configuration: {why}; what stands in {} stays", path.display(), dir.display())]
    Wrong {
        path: PathBuf,
        dir: PathBuf,
        why: String,
    },
    #[error("{0}")]
    Place(#[from] place::Error),
    #[error("watch {}: {why}; it is not kept in step with its source", path.display())]
    Watch { path: PathBuf, why: io::Error },
}

impl Conflist {
    /// Ours first, and then others aside: the runtime has a configuration at any moment. A line
    /// for each thing that changed.
    pub fn publish(&self) -> Result<Vec<String>, Error> {
        let bytes = fs::read(&self.source).map_err(|why| Error::Unread {
            path: self.source.clone(),
            why,
        })?;
        self.judge(&bytes)?;
        fs::create_dir_all(&self.dir)
            .map_err(|why| place::Error::new("make the directory", &self.dir, why))?;
        let place = Place::open(&self.dir)?;
        let mut changes = Vec::new();
        if place.put(NAME, &bytes)? == Put::Changed {
            changes.push(format!("{} is in place", place.path(NAME).display()));
        }
        if self.puts_aside {
            for name in others(&self.dir)? {
                put_aside(&place, &name)?;
                changes.push(format!("{} is put aside", place.path(&name).display()));
            }
        }
        Ok(changes)
    }

    /// Keeps it in step with its source, on a thread of its own for as long as the process lives.
    pub fn keep(self) -> Result<(), Error> {
        let mut watch = Watch::of(&[parent(&self.source), &self.dir])?;
        let keeping = move || {
            let mut pace = Pace::default();
            let mut told = String::new();
            loop {
                self.publish_again(&mut pace, &mut told);
                let waited = match watch.renew() {
                    Ok(Renewed::Same) => watch.wait(),
                    Ok(Renewed::Other) => Ok(()),
                    Ok(Renewed::Missing) => {
                        thread::sleep(FIRST_PAUSE);
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = waited {
                    tracing::warn!("{error}");
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("conflist".into());
        let spawned = thread.spawn(keeping);
        spawned.map(drop).map_err(|why| Error::Watch {
            path: PathBuf::from(NAME),
            why,
        })
    }

    fn publish_again(&self, pace: &mut Pace, told: &mut String) {
        match self.publish() {
            Ok(changes) => {
                changes.iter().for_each(|change| tracing::info!("{change}"));
                told.clear();
                if !changes.is_empty() {
                    thread::sleep(pace.next(Instant::now()));
                }
            }
            Err(error) => {
                let error = error.to_string();
                if *told != error {
                    tracing::warn!("{error}");
                    *told = error;
                }
            }
        }
    }

    fn judge(&self, bytes: &[u8]) -> Result<(), Error> {
        let text = String::from_utf8_lossy(bytes);
        fault(&text).map_or(Ok(()), |why| {
            Err(Error::Wrong {
                path: self.source.clone(),
                dir: self.dir.clone(),
                why,
            })
        })
    }
}

/// What keeps a runtime from taking it at all. What it merely does not like, the doctor tells.
fn fault(text: &str) -> Option<String> {
    let conf: Value = match serde_json::from_str(text) {
        Ok(conf) => conf,
        Err(refused) => return Some(conf::explain(text, &refused).to_string()),
    };
    let has = |key| conf.get(key).is_some();
    match conf.get("plugins") {
        Some(Value::Array(plugins)) if plugins.is_empty() => {
            Some("its \"plugins\" are none: pods would get no interface".to_owned())
        }
        Some(Value::Array(_)) if has("name") => None,
        Some(Value::Array(_)) => Some("it has no \"name\"".to_owned()),
        Some(_) | None => Some(
            "it has no list \"plugins\" (a file of a single plugin is written as a list of one)"
                .to_owned(),
        ),
    }
}

/// Somebody who puts a configuration back again and again gets ours ever less often.
#[derive(Debug, Default)]
struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    fn next(&mut self, now: Instant) -> Duration {
        let again = self.last.filter(|(at, pause)| now - *at < *pause * 3);
        let pause = again.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LAST_PAUSE));
        self.last = Some((now, pause));
        pause
    }
}

/// Whose names the runtime would read, besides ours.
fn others(dir: &Path) -> Result<Vec<String>, place::Error> {
    let failed = |why| place::Error::new("read the directory", dir, why);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let extension = Path::new(&name).extension().and_then(OsStr::to_str);
        if let (Some("conf" | "conflist" | "json"), Some(name)) = (extension, name.to_str())
            && name != NAME
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn put_aside(place: &Place, name: &str) -> Result<(), place::Error> {
    place.rename(&place.path(name), &format!("{name}{ASIDE}"))
}

/// Gives back their names to what was put aside, and takes ours away: in this order, for the
/// runtime has a configuration at any moment. A line for each.
pub fn withdraw(dir: &Path) -> Result<Vec<String>, place::Error> {
    let place = match Place::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        place => place?,
    };
    let failed = |why| place::Error::new("read the directory", dir, why);
    let mut changes = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ASIDE)) else {
            continue;
        };
        place.rename(&place.path(format!("{name}{ASIDE}")), name)?;
        changes.push(format!("{} is back", place.path(name).display()));
    }
    if place.path(NAME).exists() {
        place.remove(NAME)?;
        changes.push(format!("{} is removed", place.path(NAME).display()));
    }
    changes.sort();
    Ok(changes)
}

fn parent(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or_else(|| Path::new("."))
}

/// No runtime reads files that are called so.
const ASIDE: &str = ".weft-aside";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    const CONF: &str = r#"{"name": "cbr0", "plugins": [{"type": "flannel"}]}"#;

    fn conflist(source: &Scratch, dir: &Scratch, puts_aside: bool) -> Conflist {
        let path = source.0.join("cni-conf.json");
        fs::write(&path, CONF).unwrap();
        Conflist {
            source: path,
            dir: dir.0.clone(),
            puts_aside,
        }
    }

    #[test]
    fn others_stay_unless_they_are_to_go_aside_and_come_back() {
        let (source, dir) = (Scratch::new("cni-source"), Scratch::new("cni-dir"));
        for name in ["05-cilium.conflist", "87-podman.conf", "README", "old.json"] {
            fs::write(dir.0.join(name), name).unwrap();
        }
        let all = dir.names();
        let mut ours = conflist(&source, &dir, false);
        assert_eq!(ours.publish().unwrap().len(), 1);
        assert_eq!(ours.publish().unwrap(), [""; 0]);
        assert_eq!(dir.names().len(), all.len() + 1);
        ours.puts_aside = true;
        assert_eq!(ours.publish().unwrap().len(), 3);
        assert_eq!(
            dir.names(),
            [
                "05-cilium.conflist.weft-aside",
                NAME,
                "87-podman.conf.weft-aside",
                "README",
                "old.json.weft-aside"
            ]
        );
        assert_eq!(withdraw(&dir.0).unwrap().len(), 4);
        assert_eq!(dir.names(), all);
        assert_eq!(
            fs::read_to_string(dir.0.join("old.json")).unwrap(),
            "old.json"
        );
        assert_eq!(withdraw(&dir.0).unwrap(), [""; 0]);
    }

    #[test]
    fn rubbish_is_explained_and_what_stands_stays() {
        let (source, dir) = (Scratch::new("cni-rubbish"), Scratch::new("cni-kept"));
        let ours = conflist(&source, &dir, true);
        ours.publish().unwrap();
        for (text, part) in [
            ("", "empty"),
            (r#"{"name": "cbr0" "plugins": []}"#, "a comma is missing"),
            (r#"{"name": "cbr0", "plugins": []}"#, "\"plugins\" are none"),
            (
                r#"{"name": "cbr0", "type": "flannel"}"#,
                "no list \"plugins\"",
            ),
            (r#"{"plugins": [{"type": "flannel"}]}"#, "no \"name\""),
            ("[]", "no list \"plugins\""),
        ] {
            fs::write(&ours.source, text).unwrap();
            let told = ours.publish().unwrap_err().to_string();
            assert!(told.contains(part) && told.contains("stays"), "{told}");
        }
        fs::remove_file(&ours.source).unwrap();
        let told = ours.publish().unwrap_err().to_string();
        assert!(told.contains("-cni-conf-source"), "{told}");
        assert_eq!(fs::read_to_string(dir.0.join(NAME)).unwrap(), CONF);
    }

    #[test]
    fn a_rival_is_met_ever_less_often_and_forgiven() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = pace.next(now);
            pauses.push(pause.as_secs());
            now += pause + Duration::from_millis(1);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pace.next(now + Duration::from_secs(600)), FIRST_PAUSE);
    }
}
