//! Kernel settings under /proc/sys: read first, written only if they differ.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// A setting's place. It is built part by part, so that an interface called `eth0.5` is one part
/// and a name can never lead out of /proc/sys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    path: PathBuf,
}

/// How setting a value ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Changed,
    /// It was so already; nothing was written.
    Unchanged,
    /// This kernel has no such setting (no IPv6, module not loaded, or too old).
    NotSupported,
}

impl Key {
    /// From parts: `Key::new(["net", "ipv4", "ip_forward"])`. None if a part is empty, is `.` or
    /// `..`, or has a slash in it.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut path = PathBuf::from("/proc/sys");
        for part in parts {
            if matches!(part, "" | "." | "..") || part.contains(['/', '\0']) {
                return None;
            }
            path.push(part);
        }
        Some(Self { path })
    }

    /// net/ipv4/conf/`interface`/`setting`; `interface` may be "all" or "default".
    pub fn ipv4_conf(interface: &str, setting: &str) -> Option<Self> {
        Self::new(["net", "ipv4", "conf", interface, setting])
    }

    /// net/ipv6/conf/`interface`/`setting`.
    pub fn ipv6_conf(interface: &str, setting: &str) -> Option<Self> {
        Self::new(["net", "ipv6", "conf", interface, setting])
    }

    /// The value without the newline that ends it; None if this kernel has no such setting.
    pub fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(&self.path) {
            Ok(mut text) => {
                text.truncate(text.trim_end().len());
                Ok(Some(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(format!("read {self}"), error)),
        }
    }

    /// Sets the value unless it is set: a file system mounted read-only does no harm where
    /// nothing has to change. EROFS or EACCES where it does.
    pub fn set(&self, value: &str) -> Result<Outcome> {
        let Some(present) = self.read()? else {
            return Ok(Outcome::NotSupported);
        };
        if present == value {
            return Ok(Outcome::Unchanged);
        }
        let file = fs::OpenOptions::new().write(true).open(&self.path);
        match file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())) {
            Ok(()) => Ok(Outcome::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::NotSupported),
            Err(error) => {
                let doing = format!("set {self} to {value} (it is {present})");
                Err(Error::new(doing, error))
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl Error {
    /// The file system or file is read-only, as /proc/sys is in an unprivileged container.
    pub fn is_read_only(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_with_dots_in_its_name_is_one_part() {
        let key = Key::ipv4_conf("eth0.5", "forwarding").unwrap();
        assert_eq!(key.to_string(), "/proc/sys/net/ipv4/conf/eth0.5/forwarding");
    }

    #[test]
    fn no_name_leads_out_of_its_place() {
        for name in ["", ".", "..", "../../../etc/passwd", "a/b", "a\0b"] {
            assert_eq!(Key::ipv4_conf(name, "forwarding"), None, "{name:?}");
        }
    }
}
