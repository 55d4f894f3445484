//! What one run leaves for the next: which devices are of our making. It lies where a reboot
//! takes it away together with the devices. That it is there at all says that flanneld's routes
//! have been taken over before.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    devices: Option<Vec<String>>,
}

impl Memory {
    pub(super) fn read(path: &Path) -> Self {
        let devices = fs::read_to_string(path)
            .ok()
            .map(|text| text.lines().map(str::to_owned).collect());
        Self {
            path: path.to_owned(),
            devices,
        }
    }

    /// No weftd has run here, as far as is known.
    pub(super) fn is_blank(&self) -> bool {
        self.devices.is_none()
    }

    pub(super) fn devices(&self) -> Option<&[String]> {
        self.devices.as_deref()
    }

    pub(super) fn remember(&mut self, devices: &[String]) -> Result<(), String> {
        let text: String = devices.iter().map(|name| format!("{name}\n")).collect();
        let beside = self.path.with_extension("new");
        let written = self
            .path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&beside, text))
            .and_then(|()| fs::rename(&beside, &self.path));
        // What cannot be written is remembered for this run: it must not be tried every round.
        self.devices = Some(devices.to_vec());
        written.map_err(|error| {
            format!(
                "write {}: {error}; after a restart, routes that look like those of flanneld's \
                 host-gw are removed once more",
                self.path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_is_known_to_the_next_run() {
        let dir = std::env::temp_dir().join(format!("weft-memory-{}", std::process::id()));
        let path = dir.join("devices");
        let mut memory = Memory::read(&path);
        assert!(memory.is_blank());
        memory.remember(&["flannel.1".into()]).expect("written");
        let again = Memory::read(&path);
        assert!(!again.is_blank());
        assert_eq!(again.devices(), Some(&["flannel.1".to_owned()][..]));
        fs::remove_dir_all(dir).expect("cleared");
    }
}
