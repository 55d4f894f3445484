//! The tool's command line. Options are written with one dash or two, as weftd's are.

use std::path::PathBuf;

use crate::distribution::Distribution;
use crate::options::distance;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Status(Options),
    Doctor(Options),
    Cleanup(Options),
    Install(Options),
    Uninstall(Options),
    /// In words of their own.
    DockerOpts(Vec<String>),
    /// In weftd's words.
    Migrate(Vec<String>),
    Version,
    Help(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) json: bool,
    pub(super) run_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) subnet_file: PathBuf,
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dir: PathBuf,
    /// The executable of the plugins, if it is told.
    pub(super) from: Option<PathBuf>,
}

pub(super) fn parse(
    args: impl IntoIterator<Item = String>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Command, String> {
    let mut args = args.into_iter();
    let Some(command) = args.next() else {
        return Err(format!("what is to be done?\n\n{HELP}"));
    };
    match command.as_str() {
        "status" => options(args, env, STATUS_TAKES, Command::Status),
        "doctor" => options(args, env, DOCTOR_TAKES, Command::Doctor),
        "cleanup" => options(args, env, CLEANUP_TAKES, Command::Cleanup),
        "install" => options(args, env, INSTALL_TAKES, Command::Install),
        "uninstall" => options(args, env, UNINSTALL_TAKES, Command::Uninstall),
        "migrate" => Ok(Command::Migrate(args.collect())),
        "docker-opts" => Ok(Command::DockerOpts(args.collect())),
        "help" | "-h" | "-help" | "--help" => Ok(Command::Help(HELP)),
        "version" | "-version" | "--version" => Ok(Command::Version),
        unknown => Err(unknown_word("subcommand", unknown, &SUBCOMMANDS)),
    }
}

fn options(
    mut args: impl Iterator<Item = String>,
    env: impl Fn(&str) -> Option<String>,
    takes: &[&str],
    command: impl FnOnce(Options) -> Command,
) -> Result<Command, String> {
    let mut options = Options::from_environment(env);
    while let Some(argument) = args.next() {
        let Some(flag) = argument.strip_prefix('-') else {
            return Err(format!(
                "{argument:?} is not expected here: weft help tells what is"
            ));
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if matches!(name, "h" | "help") {
            return Ok(Command::Help(HELP));
        }
        if !takes.contains(&name) {
            return Err(unknown_word("option", name, takes));
        }
        if name == "json" {
            options.json = value.is_none_or(|value| value != "false");
            continue;
        }
        let value = value
            .or_else(|| args.next())
            .filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("--{name} needs a path"))?;
        match name {
            "from" => options.from = Some(value.into()),
            _ => *options.path(name) = value.into(),
        }
    }
    Ok(command(options))
}

impl Options {
    /// The defaults of weftd and of this node's container runtime; where weftd's are changed by the
    /// environment, so are these.
    fn from_environment(env: impl Fn(&str) -> Option<String>) -> Self {
        let path = |names: &[&str], default: &str| {
            let set = names.iter().find_map(|name| env(name));
            PathBuf::from(
                set.filter(|value| !value.is_empty())
                    .as_deref()
                    .unwrap_or(default),
            )
        };
        let distribution = Distribution::here();
        Self {
            json: false,
            run_dir: path(&["WEFTD_RUN_DIR"], "/run/weft"),
            state_dir: path(&["WEFTD_STATE_DIR"], "/var/lib/weft"),
            subnet_file: path(
                &["WEFTD_SUBNET_FILE", "FLANNELD_SUBNET_FILE"],
                "/run/flannel/subnet.env",
            ),
            conf_dir: distribution.conf_dir,
            bin_dir: distribution.bin_dir,
            from: None,
        }
    }

    fn path(&mut self, name: &str) -> &mut PathBuf {
        match name {
            "run-dir" => &mut self.run_dir,
            "state-dir" => &mut self.state_dir,
            "subnet-file" => &mut self.subnet_file,
            "conf-dir" => &mut self.conf_dir,
            _ => &mut self.bin_dir,
        }
    }
}

fn unknown_word(kind: &str, word: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| distance(word, known));
    let near = nearest.filter(|known| distance(word, known) <= (known.len() / 2).max(1));
    match near {
        Some(known) => format!("unknown {kind} {word:?}: did you mean {known}?"),
        None => format!("unknown {kind} {word:?}: there are {}", known.join(", ")),
    }
}

const SUBCOMMANDS: [&str; 9] = [
    "status",
    "doctor",
    "cleanup",
    "install",
    "uninstall",
    "docker-opts",
    "migrate",
    "version",
    "help",
];
const STATUS_TAKES: &[&str] = &["json", "run-dir"];
const DOCTOR_TAKES: &[&str] = &["json", "run-dir", "subnet-file", "conf-dir", "bin-dir"];
const CLEANUP_TAKES: &[&str] = &["json", "run-dir", "state-dir", "subnet-file"];
const INSTALL_TAKES: &[&str] = &["json", "bin-dir", "from"];
const UNINSTALL_TAKES: &[&str] = &["json", "bin-dir", "conf-dir", "run-dir"];

const HELP: &str = "\
weft tells how this node's overlay network stands.

  weft status       what the daemon says of itself: lease, peers, repairs and who made them necessary
  weft doctor       looks for what keeps pods from being reached, and names the command that cures it
  weft cleanup      removes all that weftd, or flanneld before it, made on this node: stop them first
  weft install      puts the CNI plugins in place, those of others aside
  weft uninstall    brings back what was put aside, plugins and the runtime's configuration, and
                    removes from nftables what no living pod needs: stop weftd first
  weft migrate --plan [weftd's command line]
                    what weftd would change on this node, told before it is started in flanneld's
                    place; nothing is changed
  weft migrate --back
                    makes a node ready for flanneld again, once weftd is stopped
  weft docker-opts  writes docker's options for this node's subnet, as mk-docker-opts.sh does
  weft version
  weft help

Options:
  --json              for programs
  --run-dir DIR       where weftd's socket and lock are (/run/weft)
Options of doctor and cleanup:
  --subnet-file FILE  what the flannel plugin reads (/run/flannel/subnet.env)
Options of cleanup:
  --state-dir DIR     what weftd keeps (/var/lib/weft)
Options of install:
  --from FILE         the executable of the plugins (weft-cni beside weft)
Options of doctor, install and uninstall:
  --bin-dir DIR       the CNI plugins (/opt/cni/bin, or as k3s and MicroK8s have it)
Options of doctor and uninstall:
  --conf-dir DIR      the runtime's CNI configurations (/etc/cni/net.d, or as k3s and MicroK8s have it)

It ends with 0 if all is well, 1 if the doctor finds something wrong or something could not be
removed, 2 if it was called wrongly, 3 if no daemon answers.
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, String> {
        parse(args.iter().map(|arg| (*arg).to_owned()), |_| None)
    }

    #[test]
    fn options_are_written_as_weftds_are() {
        for args in [
            &["status", "--json", "--run-dir", "/x"][..],
            &["status", "-run-dir=/x", "-json"],
        ] {
            let Ok(Command::Status(options)) = parsed(args) else {
                panic!("{args:?}");
            };
            assert!(options.json && options.run_dir == Path::new("/x"));
        }
    }

    #[test]
    fn the_environment_says_where_weftd_is() {
        let env = |name: &str| (name == "WEFTD_RUN_DIR").then(|| "/y".to_owned());
        let Ok(Command::Doctor(options)) = parse(["doctor".to_owned()], env) else {
            panic!();
        };
        assert_eq!(options.run_dir, Path::new("/y"));
        assert_eq!(options.subnet_file, Path::new("/run/flannel/subnet.env"));
    }

    #[test]
    fn what_is_not_known_is_told_with_what_was_meant() {
        let told = |args: &[&str]| parsed(args).unwrap_err();
        assert_eq!(
            told(&["statsu"]),
            "unknown subcommand \"statsu\": did you mean status?"
        );
        assert!(told(&["frobnicate"]).contains("there are status, doctor, cleanup"));
        assert!(told(&["status", "--jsn"]).contains("did you mean json?"));
        assert!(told(&["status", "--bin-dir", "/x"]).contains("unknown option"));
        assert!(told(&["status", "now"]).contains("not expected"));
        assert!(told(&["doctor", "--run-dir"]).contains("needs a path"));
        assert!(told(&[]).contains("weft doctor"));
    }
}
