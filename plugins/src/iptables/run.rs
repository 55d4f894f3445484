//! The iptables programs of this host: where they are, and one run of one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use weft_cni::{Code, Error, Result};

use super::lock::Lock;
use super::save::Saved;
use super::script::Script;
use super::{Family, Variant};

/// Where this host keeps what we need.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where programs are looked for, in order.
    pub directories: Vec<PathBuf>,
    /// Held while shared rules are looked at and changed.
    pub lock: PathBuf,
    /// How long others may hold that lock, or that of iptables itself.
    pub patience: Duration,
}

/// A program that ran, and did not do what it was told.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Error);

impl Refusal {
    /// Whether another try, right now, with other words, may succeed.
    pub(super) fn is_curable(&self) -> bool {
        self.0.code != Code::TryAgain
    }
}

impl Host {
    pub fn here() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // OCI hooks run with a PATH that lacks these, and iptables lives in them.
        let always = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        Self {
            directories: std::env::split_paths(&path)
                .filter(|directory| directory.is_absolute())
                .chain(always)
                .collect(),
            lock: PathBuf::from("/run/weft/iptables.lock"),
            patience: Duration::from_secs(10),
        }
    }

    /// For STATUS: whether pods of this family can be added at all.
    pub fn can_add(&self, family: Family) -> Result<()> {
        self.program(family, None, "restore").map(drop)
    }

    pub(super) fn lock(&self) -> Result<Lock> {
        Lock::take(&self.lock, self.patience)
    }

    pub(super) fn lock_if_used(&self) -> Option<Lock> {
        Lock::take_if_used(&self.lock, self.patience)
    }

    /// Runs one transaction with the host's own choice of variant, or with the one named.
    pub(super) fn restore(
        &self,
        family: Family,
        variant: Option<Variant>,
        script: &Script,
        lock: Option<&Lock>,
    ) -> Result<std::result::Result<(), Refusal>> {
        let program = self.program(family, variant, "restore")?;
        // For the lock of iptables itself, which the legacy variant takes.
        let wait = format!("--wait={}", self.patience.as_secs().max(1));
        // It has nothing to print but complaints.
        let stdout = lock
            .map_or_else(|| Ok(Stdio::null()), Lock::share)
            .map_err(|why| Error::io(format!("cannot share the lock: {why}")))?;
        let output = run(
            &program,
            &["--noflush", &wait],
            script.text().as_bytes(),
            stdout,
        )?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        Ok(Err(refusal(&program, &output, Some(script))))
    }

    /// The nat table of one family, as far as it is ours and can be read.
    pub(super) fn save(&self, family: Family, variant: Option<Variant>) -> Result<Option<Saved>> {
        let program = self.program(family, variant, "save")?;
        let output = run(&program, &["-t", "nat"], b"", Stdio::piped())?;
        if !output.status.success() {
            return Err(refusal(&program, &output, None).0);
        }
        Ok(Saved::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// `tool` is `restore` or `save`.
    fn program(&self, family: Family, variant: Option<Variant>, tool: &str) -> Result<PathBuf> {
        let name = family.program();
        let plain = format!("{name}-{tool}");
        let found = match variant {
            None => self.find(&plain),
            Some(variant) => self
                .find(&format!("{name}-{}-{tool}", variant.name()))
                .or_else(|| self.find(&plain).filter(|path| may_be(path, variant))),
        };
        found.ok_or_else(|| {
            let kind = variant.map_or("", |variant| match variant {
                Variant::Nft => " of the nft variant",
                Variant::Legacy => " of the legacy variant",
            });
            Error::io(format!("{plain}{kind} is not installed")).with_details(
                "install iptables, or leave \"backend\" and \"ipMasqBackend\" unset for nftables",
            )
        })
    }

    /// Whether there is a program with which `variant` can be looked into.
    pub(super) fn has(&self, family: Family, variant: Variant) -> bool {
        let tools = ["save", "restore"];
        tools
            .iter()
            .all(|tool| self.program(family, Some(variant), tool).is_ok())
    }

    /// Whether what this host calls iptables is `variant`.
    pub(super) fn prefers(&self, family: Family, variant: Variant) -> bool {
        self.program(family, None, "restore")
            .is_ok_and(|path| may_be(&path, variant))
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        self.directories
            .iter()
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
    }
}

/// A program installed under the plain name is told by the file it is a link to; one that is a
/// script may be either.
fn may_be(program: &Path, variant: Variant) -> bool {
    let file = program.canonicalize();
    let name = file
        .as_deref()
        .unwrap_or(program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    match variant {
        Variant::Nft => !name.contains("legacy") && name != "xtables-multi",
        Variant::Legacy => !name.contains("nft"),
    }
}

fn run(program: &Path, arguments: &[&str], input: &[u8], stdout: Stdio) -> Result<Output> {
    let broken = |doing: &str, why: &io::Error| {
        Error::io(format!("cannot {doing} {}: {why}", program.display()))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| broken("start", &why))?;
    feed(&mut child, input).map_err(|why| broken("write to", &why))?;
    child
        .wait_with_output()
        .map_err(|why| broken("wait for", &why))
}

fn feed(child: &mut Child, input: &[u8]) -> io::Result<()> {
    // Dropped at the end, which is the end of the input.
    let Some(mut stdin) = child.stdin.take() else {
        return Ok(());
    };
    match stdin.write_all(input) {
        // It has given up before the end, and its exit status says why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn refusal(program: &Path, output: &Output, script: Option<&Script>) -> Refusal {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let status = output.status.code();
    let code = match status {
        // RESOURCE_PROBLEM: in the legacy variant, the xtables lock; in the other, all that the
        // kernel refused.
        Some(4) if !may_be(program, Variant::Nft) => Code::TryAgain,
        // PARAMETER_PROBLEM.
        Some(2) if script.is_some() => Code::InvalidConfig,
        _ => Code::Io,
    };
    let mut msg = format!("{} failed", program.display());
    if let Some(line) = script.and_then(|script| script.nth_line(line_number(&said)?)) {
        msg = format!("{msg} at `{line}`");
    }
    let msg = match status {
        Some(status) => format!("{msg} with exit code {status}: {said}"),
        None => format!("{msg}: killed by a signal: {said}"),
    };
    let cure = match code {
        Code::TryAgain => "another program holds the xtables lock: look for a stuck iptables",
        Code::InvalidConfig => {
            "check conditionsV4, conditionsV6 and externalSetMarkChain, and that this host's iptables has the extension"
        }
        _ => "look at the nat table with iptables-save -t nat",
    };
    Refusal(Error::new(code, msg).with_details(cure))
}

/// For a person only: programs count a little differently.
fn line_number(said: &str) -> Option<usize> {
    let (_, behind) = said.split_once("line")?;
    let number = behind.trim_start_matches([':', ' ']);
    let end = number.find(|c: char| !c.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_complained_of_is_found_in_every_form() {
        for said in [
            "iptables-restore: line 3 failed",
            "unknown option \"--bogus\" Error occurred at line: 3 Try",
            "line 3: CHAIN_DEL failed",
        ] {
            assert_eq!(line_number(said), Some(3), "{said}");
        }
        assert_eq!(line_number("Permission denied (you must be root)"), None);
    }
}
