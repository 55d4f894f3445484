//! The `CNI_*` variables, read and judged.

use std::path::PathBuf;

use crate::{Error, Result, Version};

/// What the runtime wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
}

/// The variables of one call, each proven to be what it must be for its verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pub verb: Verb,
    /// Empty for GC and STATUS.
    pub container_id: String,
    /// Empty where the runtime knows of none, as on a late DEL.
    pub netns: String,
    /// Empty for GC and STATUS.
    pub ifname: String,
    /// `CNI_ARGS` as given: which keys are known depends on who reads them.
    pub args: String,
    /// Where delegates are looked for.
    pub path: Vec<PathBuf>,
    /// The runtime says that the pod lives in the host's own namespace, and means it.
    pub netns_override: bool,
}

impl Verb {
    pub const ALL: [Self; 5] = [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status];

    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether a configuration of `version` knows this verb.
    pub fn known_to(self, version: Version) -> bool {
        match self {
            Self::Add | Self::Del => true,
            Self::Check => version.has_check(),
            Self::Gc | Self::Status => version.has_gc_and_status(),
        }
    }

    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Gc | Self::Status => &["CNI_PATH"],
        }
    }

    fn is_for_one_container(self) -> bool {
        !matches!(self, Self::Gc | Self::Status)
    }
}

impl Environment {
    /// Reads the variables through `var`, which answers an absent one with nothing.
    pub fn read(verb: Verb, var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let value = |name: &str| var(name).unwrap_or_default();
        let missing: Vec<&str> = verb
            .required()
            .iter()
            .copied()
            .filter(|name| value(name).is_empty())
            .collect();
        if !missing.is_empty() {
            let names = missing.join(",");
            return Err(Error::environment(format!(
                "required env variables [{names}] missing"
            )));
        }
        let path = value("CNI_PATH");
        Ok(Self {
            verb,
            container_id: value("CNI_CONTAINERID"),
            netns: value("CNI_NETNS"),
            ifname: value("CNI_IFNAME"),
            args: value("CNI_ARGS"),
            path: path
                .split(':')
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
                .collect(),
            netns_override: matches!(
                value("CNI_NETNS_OVERRIDE").to_ascii_lowercase().as_str(),
                "1" | "true"
            ),
        })
    }

    /// Names that would become parts of paths and of interface and rule names are judged before
    /// anything is done with them.
    pub fn judge(&self) -> Result<()> {
        if !self.verb.is_for_one_container() {
            return Ok(());
        }
        if !is_identifier(&self.container_id) {
            return Err(Error::environment("invalid characters in containerID")
                .with_details(self.container_id.clone()));
        }
        judge_ifname(&self.ifname)
    }
}

/// What container IDs and network names must look like: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn judge_ifname(name: &str) -> Result<()> {
    let wrong = if name.len() > LONGEST_IFNAME {
        Some("interface name is too long")
    } else if matches!(name, "." | "..") {
        Some("interface name is . or ..")
    } else if name
        .chars()
        .any(|c| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
    {
        Some("interface name contains / or : or whitespace characters")
    } else if name.contains(char::REPLACEMENT_CHARACTER) {
        Some("interface name contains bytes that are no text")
    } else {
        None
    };
    match wrong {
        None => Ok(()),
        Some(why) => Err(Error::environment(why).with_details(format!(
            "CNI_IFNAME is {name:?}; the kernel takes 1 to {LONGEST_IFNAME} bytes without / : or white space"
        ))),
    }
}

/// IFNAMSIZ less its closing NUL.
const LONGEST_IFNAME: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn read(verb: Verb, vars: &[(&str, &str)]) -> Result<Environment> {
        let var = |name: &str| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let env = Environment::read(verb, var)?;
        env.judge()?;
        Ok(env)
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        let error = read(Verb::Add, &[]).unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment);
        assert_eq!(
            error.msg,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"
        );
        let error = read(Verb::Gc, &[]).unwrap_err();
        assert_eq!(error.msg, "required env variables [CNI_PATH] missing");
    }

    #[test]
    fn del_needs_no_namespace_and_gc_no_container() {
        let del = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/a::/b"),
        ];
        let env = read(Verb::Del, &del).unwrap();
        assert_eq!(env.path, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(read(Verb::Gc, &[("CNI_PATH", "/a")]).is_ok());
    }

    #[test]
    fn a_hostile_container_id_or_interface_name_is_refused() {
        let with = |id: &str, ifname: &str| {
            let vars = [
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", ifname),
                ("CNI_PATH", "/a"),
                ("CNI_NETNS", "/n"),
            ];
            read(Verb::Add, &vars).map_err(|error| error.code)
        };
        for id in [
            "-x",
            "../../etc",
            "a/b",
            "a b",
            "ä",
            ".hidden",
            "a\nb",
            "a;b",
        ] {
            assert_eq!(with(id, "eth0"), Err(Code::InvalidEnvironment), "{id}");
        }
        for ifname in [
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "sixteen-letters-",
            "a\u{2003}b",
        ] {
            assert_eq!(with("c", ifname), Err(Code::InvalidEnvironment), "{ifname}");
        }
        assert!(with("a_1.b-C", "fifteen-letters").is_ok());
    }
}
