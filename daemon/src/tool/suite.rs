//! The CNI plugins as files of a directory: one executable, and its name for each plugin.

use std::fs;
use std::io;
use std::path::Path;

use crate::place::{Error, Place};

pub(super) const EXECUTABLE: &str = "weft-cni";
pub(super) const PLUGINS: [&str; 5] = ["bridge", "host-local", "portmap", "loopback", "flannel"];
/// What a plugin of somebody else's is called while ours has its name.
pub(super) const ASIDE: &str = ".weft-aside";

/// Whether the file is the suite, of any version: it tells so of itself.
pub(super) fn is_ours(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    Ok(bytes.windows(TELLS.len()).any(|part| part == TELLS))
}

/// Puts the executable `from` and all its names in place, those of others aside. Each of them is
/// there at any moment, and a runtime that starts one gets the old or the new. A line for each
/// thing that changed.
pub(super) fn place(from: &Path, bin_dir: &Path) -> Result<Vec<String>, Error> {
    let place = Place::open(bin_dir)?;
    let mut changes = Vec::new();
    if says_the_same(from, &place.path(EXECUTABLE)) {
        place.sweep(EXECUTABLE)?;
    } else {
        place.copy(from, EXECUTABLE)?;
        changes.push(format!("{} is in place", place.path(EXECUTABLE).display()));
    }
    for name in PLUGINS {
        let path = place.path(name);
        place.sweep(&aside(name))?;
        if is_foreign(&path)? {
            place.keep(name, &aside(name))?;
            changes.push(format!("what {} was is put aside", path.display()));
        }
        if says_the_same(&place.path(EXECUTABLE), &path) {
            place.sweep(name)?;
        } else {
            place.link(EXECUTABLE, name)?;
            changes.push(format!("{} is in place", path.display()));
        }
    }
    Ok(changes)
}

/// Gives others their names back. What had no other before it is removed, unless pods that were
/// added by it wait to be deleted by it. A line for each thing that changed.
pub(super) fn withdraw(bin_dir: &Path, is_waited_for: bool) -> Result<Vec<String>, Error> {
    let place = match Place::open(bin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        place => place?,
    };
    let mut changes = Vec::new();
    for name in PLUGINS {
        let path = place.path(name);
        let earlier = place.path(aside(name));
        if earlier.symlink_metadata().is_ok() {
            place.rename(&earlier, name)?;
            changes.push(format!("what {} was is back", path.display()));
        } else if !is_waited_for && is_ours(&path).unwrap_or(false) {
            place.remove(name)?;
            changes.push(format!("{} is removed", path.display()));
        }
    }
    if !is_waited_for && is_ours(&place.path(EXECUTABLE)).unwrap_or(false) {
        place.remove(EXECUTABLE)?;
        changes.push(format!("{} is removed", place.path(EXECUTABLE).display()));
    }
    Ok(changes)
}

fn aside(name: &str) -> String {
    format!("{name}{ASIDE}")
}

fn is_foreign(path: &Path) -> Result<bool, Error> {
    match is_ours(path) {
        Ok(ours) => Ok(!ours),
        // There, and leading nowhere: a link of others that they may mend.
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(path.symlink_metadata().is_ok()),
        Err(why) => Err(Error::new("read", path, why)),
    }
}

fn says_the_same(one: &Path, other: &Path) -> bool {
    match (fs::read(one), fs::read(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// A part of what every plugin of ours prints of itself.
const TELLS: &[u8] = b"v1.9.1+weft.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn the_names_are_those_of_the_suite_and_it_can_be_told_from_others() {
        let suite = weft_plugins::SUITE.iter().map(|plugin| plugin.name());
        let mut names: Vec<&str> = suite.collect();
        let mut ours = PLUGINS.to_vec();
        names.sort_unstable();
        ours.sort_unstable();
        assert_eq!(names, ours);
        assert!(weft_cni::ABOUT_VERSION.as_bytes().starts_with(TELLS));
    }

    fn suite(version: &str) -> Vec<u8> {
        [b"\x7fELF...", TELLS, version.as_bytes()].concat()
    }

    #[test]
    fn others_go_aside_and_come_back_and_a_second_run_changes_nothing() {
        let (dist, bin) = (Scratch::new("suite-dist"), Scratch::new("suite-bin"));
        let from = dist.0.join(EXECUTABLE);
        fs::write(&from, suite("1")).unwrap();
        for (name, text) in [("bridge", "Go's bridge"), ("ptp", "Go's ptp")] {
            fs::write(bin.0.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", bin.0.join("portmap")).unwrap();

        assert_eq!(place(&from, &bin.0).unwrap().len(), 8);
        assert_eq!(place(&from, &bin.0).unwrap(), [""; 0]);
        fs::write(&from, suite("2")).unwrap();
        assert_eq!(place(&from, &bin.0).unwrap().len(), 6);
        for name in PLUGINS {
            assert_eq!(fs::read(bin.0.join(name)).unwrap(), suite("2"), "{name}");
        }
        let aside = fs::read_to_string(bin.0.join("bridge.weft-aside")).unwrap();
        assert_eq!(aside, "Go's bridge");

        assert_eq!(withdraw(&bin.0, true).unwrap().len(), 2);
        assert_eq!(
            bin.names(),
            [
                "bridge",
                "flannel",
                "host-local",
                "loopback",
                "portmap",
                "ptp",
                EXECUTABLE
            ]
        );
        assert_eq!(withdraw(&bin.0, false).unwrap().len(), 4);
        assert_eq!(bin.names(), ["bridge", "portmap", "ptp"]);
        assert_eq!(
            fs::read_to_string(bin.0.join("bridge")).unwrap(),
            "Go's bridge"
        );
        assert_eq!(withdraw(&bin.0, false).unwrap(), [""; 0]);
    }
}
