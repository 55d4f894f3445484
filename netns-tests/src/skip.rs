//! Tests that cannot run here, said loudly.
//!
//! A skip is printed past the test runner's capture, recorded in the file that
//! `WEFT_SKIPS` names, and fails the test under `CI=true` when the lack is one
//! that `make test` could have mended.
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A program in the search path, by name.
    Tool(&'static str),
    /// A file that must exist: a plugin, a device.
    File(&'static str),
    /// Being root in the first user namespace.
    Root,
    /// User namespaces for everybody.
    UserNamespaces,
    /// A kernel feature, with the outcome of a probe for it.
    Kernel(&'static str, bool),
    /// Anything else, with the outcome of a probe for it.
    Other(&'static str, bool),
}

/// Which Debian package brings what. Everything here, `make test` installs as root.
const PACKAGES: [(&str, &str); 20] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("iptables-legacy", "iptables"),
    ("ping", "iputils-ping"),
    ("conntrack", "conntrack"),
    ("strace", "strace"),
    ("setpriv", "util-linux"),
    ("/lib/systemd/systemd", "systemd"),
    ("systemd-analyze", "systemd"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("openssl", "openssl"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("podman", "podman"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/lib/podman/netavark", "netavark"),
];

/// True when everything needed is here. Otherwise the test is skipped, loudly:
/// `if !skip_unless(&[Need::Tool("nft")]) { return; }`
#[track_caller]
pub fn skip_unless(needs: &[Need]) -> bool {
    let Some(lack) = needs.iter().find(|need| !need.is_met()) else {
        return true;
    };
    skip(&crate::reexec::current_test(), lack);
    false
}

impl Need {
    /// A bridge that looks at VLAN tags. Not every kernel is built with it.
    pub fn vlan_filtering() -> Self {
        let mut probe = Command::new("unshare");
        probe
            .args(["--user", "--map-root-user", "--net", "sh", "-ec"])
            .arg(
                "PATH=$PATH:/usr/sbin:/sbin
            ip link add probe type bridge vlan_filtering 1
            bridge vlan add vid 2 dev probe self",
            );
        Self::Kernel("VLAN filtering", succeeds(probe))
    }

    fn is_met(&self) -> bool {
        match self {
            Self::Tool(name) => find_in_path(name),
            Self::File(path) => Path::new(path).exists(),
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::UserNamespaces => user_namespaces_work(),
            Self::Kernel(_, works) | Self::Other(_, works) => *works,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Tool(name) | Self::File(name) => match self.package() {
                Some(package) => format!("{name} (Debian package {package})"),
                None => (*name).to_owned(),
            },
            Self::Root => "root".to_owned(),
            Self::UserNamespaces => "user namespaces for everybody".to_owned(),
            Self::Kernel(feature, _) => format!("a kernel with {feature}"),
            Self::Other(what, _) => (*what).to_owned(),
        }
    }

    fn package(&self) -> Option<&'static str> {
        let (Self::Tool(name) | Self::File(name)) = self else {
            return None;
        };
        PACKAGES
            .iter()
            .find(|(what, _)| what == name)
            .map(|(_, package)| *package)
    }
}

fn skip(test: &str, lack: &Need) {
    let line = format!("SKIP {test}: needs {}", lack.describe());
    let could_be_mended = lack.package().is_some();
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        !(in_ci && could_be_mended),
        "{line}, which make test installs"
    );

    // Written to the stream itself: the test runner captures only the macros.
    let _ = writeln!(std::io::stderr(), "{line}");
    if let Some(record) = std::env::var_os("WEFT_SKIPS") {
        let file = OpenOptions::new().create(true).append(true).open(&record);
        file.and_then(|mut file| writeln!(file, "{line}"))
            .unwrap_or_else(|e| panic!("cannot record a skip in {}: {e}", record.display()));
    }
}

fn find_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What runs as an ordinary user often lacks sbin, and needs it all the same.
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(sbin)
        .any(|dir| dir.join(name).is_file())
}

/// Distributions refuse them in several ways, so the only sure probe is to try.
fn user_namespaces_work() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--net", "--mount", "true"]);
    succeeds(probe)
}

fn succeeds(mut probe: Command) -> bool {
    probe.stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
