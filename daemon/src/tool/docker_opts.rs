//! `weft docker-opts`: what flannel's mk-docker-opts.sh writes of this node's subnet, for a docker
//! that runs without Kubernetes.

use std::io;
use std::path::{Path, PathBuf};

use super::{FINE, MISTAKEN, Terminal, WRONG};
use crate::place::Place;
use crate::subnet_file::Found;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    subnet_file: PathBuf,
    to: PathBuf,
    /// Each option in a variable of its own.
    single: bool,
    /// All of them in one.
    combined: bool,
    key: String,
    masquerade: bool,
    /// What the combined variable begins with.
    before: String,
}

impl Options {
    /// In the manner of getopts: letters may be joined, a value may be joined to its letter.
    pub(super) fn parse(
        args: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let mut options = Self {
            subnet_file: "/run/flannel/subnet.env".into(),
            to: "/run/docker_opts.env".into(),
            single: false,
            combined: false,
            key: "DOCKER_OPTS".to_owned(),
            masquerade: true,
            before: String::new(),
        };
        let mut args = args.into_iter();
        while let Some(argument) = args.next() {
            let letters = argument.strip_prefix('-').filter(|rest| !rest.is_empty());
            let mut letters = letters.ok_or_else(|| unknown(&argument))?.chars();
            while let Some(letter) = letters.next() {
                let mut value = || {
                    let rest: String = letters.by_ref().collect();
                    let value = Some(rest).filter(|rest| !rest.is_empty());
                    value
                        .or_else(|| args.next())
                        .ok_or_else(|| format!("-{letter} needs a value\n\n{USAGE}"))
                };
                match letter {
                    'f' => options.subnet_file = value()?.into(),
                    'd' => options.to = value()?.into(),
                    'k' => options.key = value()?,
                    'i' => options.single = true,
                    'c' => options.combined = true,
                    'm' => options.masquerade = false,
                    _ => return Err(unknown(&argument)),
                }
            }
        }
        if !is_variable(&options.key) {
            return Err(format!(
                "-k {:?}: must be the name of a variable: letters, digits and _",
                options.key
            ));
        }
        if !options.single && !options.combined {
            (options.single, options.combined) = (true, true);
        }
        options.before = env(&options.key).unwrap_or_default();
        Ok(options)
    }

    /// Sorted by name, as the script has it.
    fn text(&self, subnet: &Subnet) -> String {
        let mtu = subnet.mtu.map(|mtu| ("MTU", format!("--mtu={mtu}")));
        let masquerade = self.masquerade && subnet.masquerade;
        let masquerade = masquerade.then(|| ("IPMASQ", "--ip-masq=false".to_owned()));
        let bip = ("BIP", format!("--bip={}", subnet.bridge));
        let mut text = String::new();
        let mut combined = format!("{} ", self.before);
        for (name, option) in [Some(bip), masquerade, mtu].into_iter().flatten() {
            if self.single {
                text.push_str(&format!("DOCKER_OPT_{name}=\"{option}\"\n"));
            }
            combined.push_str(&option);
            combined.push(' ');
        }
        if self.combined {
            text.push_str(&format!("{}=\"{combined}\"\n", self.key));
        }
        text
    }
}

/// What docker must know.
struct Subnet {
    /// The bridge's address with its prefix.
    bridge: String,
    mtu: Option<u32>,
    masquerade: bool,
}

impl Subnet {
    fn read(path: &Path) -> Result<Self, String> {
        let found = Found::read(path).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| {
            format!(
                "there is no {}: weftd writes it once it has a subnet (-f names another)",
                path.display()
            )
        })?;
        let bridge = found.subnets.v4.and_then(|subnet| {
            let bridge = subnet.nth(1)?;
            Some(format!("{bridge}/{}", subnet.prefix()))
        });
        let bridge = bridge.ok_or_else(|| {
            format!(
                "{} has no IPv4 subnet (FLANNEL_SUBNET), so there is nothing to tell docker",
                path.display()
            )
        })?;
        Ok(Self {
            bridge,
            mtu: found.mtu,
            masquerade: found.masquerade.unwrap_or(false),
        })
    }
}

pub(super) fn run(
    args: impl IntoIterator<Item = String>,
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let options = match Options::parse(args, env) {
        Ok(options) => options,
        Err(mistake) => {
            writeln!(terminal.err, "weft: docker-opts: {mistake}")?;
            return Ok(MISTAKEN);
        }
    };
    match write(&options) {
        Ok(()) => Ok(FINE),
        Err(why) => {
            writeln!(terminal.err, "weft: docker-opts: {why}")?;
            Ok(WRONG)
        }
    }
}

/// Docker starts without a subnet rather than with half a file, so nothing is written of nothing.
fn write(options: &Options) -> Result<(), String> {
    let subnet = Subnet::read(&options.subnet_file)?;
    let name = options.to.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| format!("-d {:?}: must name a file", options.to))?;
    let dir = options
        .to
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty());
    let place = Place::open(dir.unwrap_or_else(|| Path::new("."))).map_err(|e| e.to_string())?;
    let put = place.put(name, options.text(&subnet).as_bytes());
    put.map(drop).map_err(|e| e.to_string())
}

fn is_variable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn unknown(argument: &str) -> String {
    format!("{argument:?} is not known\n\n{USAGE}")
}

const USAGE: &str = "\
usage: docker-opts [-f SUBNET-FILE] [-d FILE] [-i] [-c] [-m] [-k NAME]
  -f  what weftd writes of this node's subnet (/run/flannel/subnet.env)
  -d  where docker's options are written (/run/docker_opts.env)
  -i  each option as a variable of its own, such as DOCKER_OPT_MTU
  -c  all options in one variable; without -i and -c, both are written
  -k  that variable's name (DOCKER_OPTS)
  -m  without --ip-masq, for old versions of docker";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Options, String> {
        let env = |name: &str| (name == "EARLIER").then(|| "--debug".to_owned());
        Options::parse(args.iter().map(|&arg| arg.to_owned()), env)
    }

    fn text(args: &[&str]) -> String {
        parsed(args).unwrap().text(&Subnet {
            bridge: "10.1.74.1/24".to_owned(),
            mtu: Some(1472),
            masquerade: true,
        })
    }

    #[test]
    fn it_writes_what_flannels_script_writes_byte_for_byte() {
        const SINGLE: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n\
            DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
            DOCKER_OPT_MTU=\"--mtu=1472\"\n";
        const COMBINED: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=false --mtu=1472 \"\n";
        assert_eq!(text(&[]), format!("{SINGLE}{COMBINED}"));
        assert_eq!(text(&["-ic"]), format!("{SINGLE}{COMBINED}"));
        assert_eq!(text(&["-i"]), SINGLE);
        assert_eq!(text(&["-c"]), COMBINED);
        assert_eq!(
            text(&["-mckEARLIER"]),
            "EARLIER=\"--debug --bip=10.1.74.1/24 --mtu=1472 \"\n"
        );
        assert_eq!(
            text(&["-i", "-m"]),
            SINGLE.replace("DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n", "")
        );
    }

    #[test]
    fn what_is_not_known_is_told_with_what_is() {
        for args in [&["-x"][..], &["now"], &["-"], &["-f"], &["-ik"]] {
            assert!(parsed(args).unwrap_err().contains("usage:"), "{args:?}");
        }
        assert!(parsed(&["-k", "a b"]).unwrap_err().contains("a variable"));
    }
}
