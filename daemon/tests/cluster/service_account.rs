//! The way in of a pod: the service's address from its environment, and its account where, and
//! as, the kubelet mounts it.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use weft_netns::apiserver::{Tls, flannel_node, slim_node};
use weft_netns::{Need, World, in_world, skip_unless};

use crate::harness::{Node, VXLAN};
use crate::kube::{self, register};

#[path = "../etcd/certificates.rs"]
mod certificates;
use certificates::Authority;

#[test]
fn a_pod_s_account_is_the_way_in_and_goes_on_when_it_is_renewed() {
    is_the_way_in(Ipv4Addr::new(192, 168, 9, 254).into());
}

#[test]
fn a_pod_s_account_is_the_way_in_over_ipv6() {
    is_the_way_in(Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0xfe).into());
}

#[track_caller]
fn is_the_way_in(host: IpAddr) {
    if !skip_unless(&[Need::Tool("openssl")]) {
        return;
    }
    in_world(|world| {
        let cluster = kube::cluster_at(world, VXLAN, (host, PORT).into());
        let server = &kube::kube(&cluster).server;
        let certificates = world.scratch("certificates");
        let presents = |name: &str, token: &str| {
            let authority = Authority::new(&certificates, name);
            let signed = authority.sign(&format!("{name}-server"), Some(host), 2);
            let tls = Tls::new(&signed.cert, &signed.key, None);
            server.borrow_mut().present(tls);
            let tokens = Some([token.to_owned()].into());
            server.borrow().access(|access| access.tokens = tokens);
            authority.certificate()
        };
        let account = Account::mounted(world);
        account.is("first", &presents("first", "first"));

        let mut node = cluster.node(1);
        register(&cluster, &node, &["10.244.1.0/24"]);
        node.flags
            .retain(|flag| !flag.starts_with("--kube-api-url"));
        start(&node, host);
        node.until_ready();

        // The kubelet renews it long before the old one is worth nothing.
        account.is("second", &certificates.join("first.pem"));
        let tokens = Some(["second".to_owned()].into());
        server.borrow().access(|access| access.tokens = tokens);
        server.borrow().end_watches();
        let peer = |n: u8| {
            let name = format!("peer-{n}");
            let registered = slim_node(&name, &[&format!("10.244.{n}.0/24")]);
            let (public, mac) = (format!("192.168.9.{n}"), format!("02:00:00:00:00:{n:02}"));
            server.borrow().put(flannel_node(registered, &public, &mac));
        };
        peer(2);
        node.until_says("ip route", "10.244.2.0/24 via 10.244.2.0", true);

        // Another authority, whose certificate the server shows before the kubelet brings it.
        let authority = presents("third", "third");
        peer(3);
        node.until_told(&["certificate"]);
        account.is("third", &authority);
        node.until_says("ip route", "10.244.3.0/24 via 10.244.3.0", true);
        node.until_ready();
        assert!(node.lives());
    });
}

fn start(node: &Node<'_>, host: IpAddr) {
    let command = node
        .command()
        .env("KUBERNETES_SERVICE_HOST", host.to_string())
        .env("KUBERNETES_SERVICE_PORT", PORT.to_string());
    node.is_now(command.spawn());
}

/// What the kubelet mounts.
struct Account {
    dir: PathBuf,
    number: Cell<u32>,
}

impl Account {
    fn mounted(world: &World) -> Self {
        let dir = world.private_dir("/var/run/secrets/kubernetes.io/serviceaccount");
        for name in FILES {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
        Self {
            dir,
            number: Cell::new(0),
        }
    }

    /// All of it at once: a directory beside, and a link to it that is renamed into place.
    fn is(&self, token: &str, authority: &Path) {
        self.number.set(self.number.get() + 1);
        let name = format!("..2026_01_15_08_30_{:02}.1234567", self.number.get());
        let beside = self.dir.join(&name);
        fs::create_dir(&beside).unwrap();
        let authority = fs::read_to_string(authority).unwrap();
        for (name, text) in FILES.iter().zip([token, &authority, "kube-weft"]) {
            fs::write(beside.join(name), text).unwrap();
        }
        let link = self.dir.join("..data_tmp");
        symlink(name, &link).unwrap();
        fs::rename(link, self.dir.join("..data")).unwrap();
    }
}

const FILES: [&str; 3] = ["token", "ca.crt", "namespace"];
const PORT: u16 = 6443;
