//! Who this node is, whatever its address: see [`Identity`].

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::lease::Identity;
use crate::options::{MachineId, Node};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub identity: Identity,
    /// What could not be learnt, and what that means.
    pub warning: Option<String>,
}

/// `state_dir` keeps an id of our making where the machine has none.
pub fn identity(node: &Node, state_dir: &Path) -> Known {
    let name = node.name.clone().unwrap_or_else(host_name);
    let (machine, warning) = machine(&node.machine_id, state_dir, random_id);
    Known {
        identity: Identity {
            machine,
            node: name,
        },
        warning,
    }
}

/// The same, and nothing made: a machine without an id is known by its name alone.
pub fn known(node: &Node, state_dir: &Path) -> Identity {
    let machine = match &node.machine_id {
        MachineId::Is(id) => Some(id.clone()),
        MachineId::File(file) => [file, &state_dir.join("machine-id")]
            .into_iter()
            .find_map(|file| read_id(file).ok()?),
    };
    Identity {
        machine: machine.unwrap_or_default(),
        node: node.name.clone().unwrap_or_else(host_name),
    }
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

fn machine(
    given: &MachineId,
    state_dir: &Path,
    fresh: impl FnOnce() -> io::Result<String>,
) -> (String, Option<String>) {
    let file = match given {
        MachineId::Is(id) => return (id.clone(), None),
        MachineId::File(file) => file,
    };
    let why = match read_id(file) {
        Ok(Some(id)) => return (id, None),
        Ok(None) => format!("{} holds no id", file.display()),
        Err(why) => format!("read {}: {why}", file.display()),
    };
    let own = state_dir.join("machine-id");
    match kept(&own, fresh) {
        Ok(id) => {
            let warning = format!(
                "{why}: this machine is known by an id of weftd's making, kept in {}; \
                 systemd-machine-id-setup gives it one of its own",
                own.display()
            );
            (id, Some(warning))
        }
        Err(trouble) => {
            let warning = format!(
                "{why}, and keep one of weftd's making in {}: {trouble}: this node is known by \
                 its name alone, which no other node of the cluster may have",
                own.display()
            );
            (String::new(), Some(warning))
        }
    }
}

/// None where there is no more than a place for one, as in an image not yet booted.
fn read_id(file: &Path) -> io::Result<Option<String>> {
    let text = fs::read_to_string(file)?;
    let id = text.trim();
    Ok((!id.is_empty() && id != "uninitialized").then(|| id.to_owned()))
}

/// Made once: whoever comes second takes what the first has made.
fn kept(path: &Path, fresh: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    match read_id(path) {
        Ok(Some(id)) => return Ok(id),
        Ok(None) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let beside = path.with_extension(std::process::id().to_string());
    let mut file = fs::File::create(&beside)?;
    file.write_all(format!("{}\n", fresh()?).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => read_id(path)?.ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// In the form of a machine-id.
fn random_id() -> io::Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("weft-id-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn holding(&self, text: &str) -> MachineId {
            fs::write(self.path("etc-machine-id"), text).unwrap();
            MachineId::File(self.path("etc-machine-id"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn unasked() -> io::Result<String> {
        panic!("no id needs to be made")
    }

    #[test]
    fn the_machines_id_is_read_from_its_file_or_is_what_the_flag_says() {
        let scratch = Scratch::new("file");
        let given = scratch.holding("0123456789abcdef\n");
        let known = machine(&given, &scratch.path("state"), unasked);
        assert_eq!(known, ("0123456789abcdef".into(), None));
        let known = machine(&MachineId::Is("m1".into()), Path::new("/"), unasked);
        assert_eq!(known, ("m1".into(), None));
    }

    #[test]
    fn a_machine_without_an_id_gets_one_that_stays() {
        let scratch = Scratch::new("none");
        for given in [
            MachineId::File(scratch.path("absent")),
            scratch.holding(""),
            scratch.holding("uninitialized\n"),
        ] {
            let (id, warning) = machine(&given, &scratch.path("state"), || Ok("made".into()));
            assert_eq!(id, "made");
            let warning = warning.unwrap();
            assert!(warning.contains("state/machine-id"), "{warning}");
        }
        let (again, _) = machine(
            &MachineId::File(scratch.path("absent")),
            &scratch.path("state"),
            unasked,
        );
        assert_eq!(again, "made");
    }

    #[test]
    fn what_a_killed_run_left_half_made_is_made_again() {
        let scratch = Scratch::new("half");
        fs::write(scratch.path("machine-id"), "").unwrap();
        let absent = MachineId::File(scratch.path("absent"));
        let (id, _) = machine(&absent, &scratch.path(""), || Ok("made".into()));
        assert_eq!(id, "made");
    }

    #[test]
    fn where_nothing_can_be_kept_the_name_alone_counts() {
        let scratch = Scratch::new("blocked");
        fs::write(scratch.path("state"), "a file").unwrap();
        let absent = MachineId::File(scratch.path("absent"));
        let (id, warning) = machine(&absent, &scratch.path("state"), || Ok("made".into()));
        assert_eq!(id, "");
        assert!(warning.unwrap().contains("by its name alone"));
    }

    #[test]
    fn a_node_is_called_as_told_or_else_as_its_host() {
        let node = |name: Option<&str>| Node {
            name: name.map(str::to_owned),
            machine_id: MachineId::Is("m".into()),
        };
        let dir = Path::new("/nonexistent");
        assert_eq!(identity(&node(Some("n1")), dir).identity.node, "n1");
        assert_eq!(identity(&node(None), dir).identity.node, host_name());
        assert!(!host_name().is_empty());
    }

    #[test]
    fn ids_of_our_making_look_like_the_systems_and_differ() {
        let (one, two) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }
}
