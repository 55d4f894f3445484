//! The suite leaves a node: what it put aside comes back, what it holds for pods that are gone
//! goes, and what living pods need stays.

use std::fs;

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cmd, Cni, Done, Need, Netns, World, in_world, skip_unless};

use crate::{names, weft};

const NEEDS: [Need; 4] = [
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("iptables"),
    Need::File("/usr/lib/cni/bridge"),
];

fn network(masquerade: bool) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": masquerade,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// It lives as long as its namespace.
fn pod(world: &World, name: &str, port: u16) -> (Netns, Attachment) {
    let ports = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
    let netns = world.netns(name);
    let who = Attachment::new(name, &netns).capability("portMappings", ports);
    (netns, who)
}

/// With directories of its own, as a node has them.
struct Node<'w> {
    world: &'w World,
    flags: Vec<String>,
}

impl<'w> Node<'w> {
    fn new(world: &'w World) -> Self {
        for dir in ["/var/lib/cni", "/opt/cni/bin", "/etc/cni/net.d"] {
            world.private_dir(dir);
        }
        fs::create_dir("/var/lib/cni/networks").unwrap();
        let run = world.scratch("run").join("weft");
        let flags = vec![
            format!("--run-dir={}", run.display()),
            "--bin-dir=/opt/cni/bin".to_owned(),
            "--conf-dir=/etc/cni/net.d".to_owned(),
        ];
        Self { world, flags }
    }

    fn uninstall(&self) -> Cmd {
        weft(&["uninstall"]).args(&self.flags)
    }

    fn tables(&self) -> String {
        self.world.exec("nft list ruleset")
    }
}

fn told(done: Done) -> String {
    done.ok().stdout
}

#[test]
fn what_the_go_plugins_del_leaves_is_removed_and_the_living_are_named_and_served() {
    if !skip_unless(&NEEDS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        let ours = Chain::new(&Cni::weft(), network(true));
        let (_gone, gone) = pod(world, "gone", 8080);
        let (_stays, stays) = pod(world, "stays", 8081);
        ours.add(&gone).ok();
        ours.add(&stays).ok();
        // Debian's plugins cannot even take leave of a masquerade that stands elsewhere.
        let theirs = Chain::new(&Cni::debian(), network(false));
        theirs.del(&gone).ok();
        let left = node.tables();
        assert!(left.contains("8080") && left.contains("id: gone"), "{left}");

        let told_first = told(node.uninstall().run());
        assert!(
            told_first.contains(
                "what nftables had of container gone (eth0 on network net), which is gone, is removed"
            ),
            "{told_first}"
        );
        assert!(
            told_first.contains("nftables still serves container stays (eth0 on network net)"),
            "{told_first}"
        );
        let left = node.tables();
        assert!(!left.contains("gone") && left.contains("8081"), "{left}");

        theirs.del(&stays).ok();
        let told_last = told(node.uninstall().run());
        assert!(told_last.contains("container stays") && !told_last.contains("still"));
        let left = node.tables();
        assert!(!left.contains("weft"), "{left}");
        assert_eq!(
            told(node.uninstall().run()),
            "there is nothing of weft's here\n"
        );
    });
}

/// The reference bridge names its links by chance: only the reservation tells that the pod lives.
#[test]
fn a_pod_on_somebody_elses_bridge_is_not_taken_for_dead() {
    if !skip_unless(&NEEDS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        let mixed = Cni::debian().with(world, "portmap", &Cni::weft());
        let chain = Chain::new(&mixed, network(true));
        let (_netns, pod) = pod(world, "mixed", 8080);
        chain.add(&pod).ok();
        let before = node.tables();
        assert!(told(node.uninstall().run()).contains("still serves container mixed"));
        assert_eq!(node.tables(), before);
        // Where nobody can tell, nobody is dead.
        chain.by(&Cni::debian()).del(&pod).ok();
        world.exec("rm -r /var/lib/cni/networks");
        assert!(told(node.uninstall().run()).contains("still serves container mixed"));
        fs::create_dir("/var/lib/cni/results").unwrap();
        assert!(told(node.uninstall().run()).contains("which is gone, is removed"));
    });
}

#[test]
fn plugins_and_configurations_come_back_and_ours_stay_while_pods_wait_for_them() {
    if !skip_unless(&NEEDS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        for (file, text) in [
            ("/opt/cni/bin/bridge", "Go's bridge"),
            ("/etc/cni/net.d/05-cilium.conflist.weft-aside", "cilium's"),
            ("/etc/cni/net.d/10-flannel.conflist", "ours"),
        ] {
            fs::write(file, text).unwrap();
        }
        let from = Cni::weft_dir().join("weft-cni").display().to_string();
        let install = weft(&["install", "--from", &from, "--bin-dir=/opt/cni/bin"]);
        let changed: Value = serde_json::from_str(&told(install.args(["--json"]).run())).unwrap();
        assert_eq!(
            changed["changed"].as_array().map(Vec::len),
            Some(7),
            "{changed}"
        );

        let chain = Chain::new(&Cni::in_dirs(&["/opt/cni/bin"]), network(true));
        let (_netns, pod) = pod(world, "pod", 8080);
        chain.add(&pod).ok();
        let said = told(node.uninstall().run());
        for part in [
            "/etc/cni/net.d/05-cilium.conflist is back",
            "/etc/cni/net.d/10-flannel.conflist is removed",
            "what /opt/cni/bin/bridge was is back",
            "still serves container pod",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(names("/etc/cni/net.d".as_ref()), ["05-cilium.conflist"]);
        assert_eq!(
            fs::read_to_string("/opt/cni/bin/bridge").unwrap(),
            "Go's bridge"
        );

        let ours = Chain::new(&Cni::weft(), network(true));
        ours.del(&pod).ok();
        told(node.uninstall().run());
        assert_eq!(names("/opt/cni/bin".as_ref()), ["bridge"]);
    });
}

#[test]
fn beside_a_daemon_nothing_is_removed() {
    in_world(|world| {
        let node = Node::new(world);
        fs::write("/etc/cni/net.d/10-flannel.conflist", "ours").unwrap();
        let run = world.scratch("held");
        let _held = weft_daemon::lock::Lock::take(&run).unwrap();
        let run = format!("--run-dir={}", run.display());
        let done = node.uninstall().arg(run).run();
        assert_eq!(done.code(), Some(1));
        assert!(
            done.stderr
                .contains("nothing is removed: another weftd runs"),
            "{}",
            done.stderr
        );
        assert_eq!(names("/etc/cni/net.d".as_ref()), ["10-flannel.conflist"]);
    });
}
