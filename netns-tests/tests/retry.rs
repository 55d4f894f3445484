//! An ADD that fails leaves nothing, says what the operator can do, and works in the same
//! namespace once that is done.
//!
//! ```text
//!   break something ── ADD fails ── is the node as before? ── mend it ── ADD works, and answers
//! ```
mod node;

use std::fs;
use std::time::Duration;

use node::{LOOK, SECOND, add, ip_of, reaches};
use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cmd, Cni, Need, Netns, Watch, World, in_world, skip_unless, wait_until,
};

/// What one failure is about.
struct Fault<'a> {
    world: &'a World,
    pod: Netns,
    who: Attachment,
}

/// A node whose skeletons stand: what pods share is made by the first of them.
fn on_node(story: impl FnOnce(&Fault<'_>)) {
    if !skip_unless(&LOOK) {
        return;
    }
    in_world(|world| {
        fs::create_dir_all("/run/flannel").expect("make a directory");
        lease("10.22.0.1/24");
        let pod = world.netns("pod");
        let who = with_port(&Attachment::new("pod", &pod));
        for chain in [bridge(json!({})), flannel()] {
            add(&chain, &who);
            chain.del(&who).ok();
        }
        story(&Fault { world, pod, who });
    });
}

impl Fault<'_> {
    /// ADD of the broken chain fails with the code and the words, once and again, and leaves
    /// nothing; then it is mended, and ADD of the good one works.
    #[track_caller]
    fn is_told_and_overcome(
        &self,
        broken: &Chain,
        (code, says): (u64, &[&str]),
        mend: impl FnOnce(),
        good: &Chain,
    ) {
        let watch = Watch::node().netns(&self.pod);
        let before = watch.take();
        for with_del in [false, true] {
            let failed = broken.add(&self.who);
            let failure = failed.failed().expect("it can't work").failure();
            assert_eq!(failure.code, code, "{failure:?}");
            let said = format!("{} {}", failure.msg, failure.details);
            for word in says {
                assert!(said.contains(word), "{word:?} is not named: {said}");
            }
            assert!(
                failed.wall() < Duration::from_secs(2),
                "{:?}",
                failed.wall()
            );
            if with_del {
                broken.del(&self.who).ok();
            }
            let left = before.difference(&watch.take()).except(remembered);
            // What the plugins before the one that failed have made, DEL takes.
            if with_del || failed.calls.len() == 1 {
                assert!(left.is_empty(), "after {said}, this has changed:\n{left}");
            } else {
                broken.del(&self.who).ok();
            }
        }
        mend();
        let result = add(good, &self.who);
        reaches(&ip_of(&result, 0));
        good.del(&self.who).ok();
    }
}

fn remembered(fact: &str) -> bool {
    fact.contains("last_reserved_ip") || fact.contains("/.weft")
}

fn lease(subnet: &str) {
    let lease = format!(
        "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
    fs::write("/run/flannel/subnet.env", lease).expect("write a lease");
}

fn with_port(who: &Attachment) -> Attachment {
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    who.clone().capability("portMappings", mapping)
}

fn bridge(change: Value) -> Chain {
    let mut conf = node::bridge_conf("1.0.0", change);
    conf["macspoofchk"] = true.into();
    chain("net", json!([conf, portmap()]))
}

fn flannel() -> Chain {
    let delegate = json!({"isDefaultGateway": true, "macspoofchk": true});
    chain(
        "net",
        json!([{"type": "flannel", "delegate": delegate}, portmap()]),
    )
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

fn chain(name: &str, plugins: Value) -> Chain {
    Chain::new(
        &Cni::weft(),
        json!({"name": name, "cniVersion": "1.0.0", "plugins": plugins}),
    )
}

fn ipam(change: Value) -> Value {
    let mut ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]});
    for (key, value) in change.as_object().expect("an object") {
        ipam[key] = value.clone();
    }
    json!({"ipam": ipam})
}

#[test]
fn an_exhausted_range() {
    on_node(|fault| {
        let three = ipam(
            json!({"ranges": [[{"subnet": "10.22.0.0/24", "rangeStart": "10.22.0.2", "rangeEnd": "10.22.0.4"}]]}),
        );
        let small = bridge(three);
        let others = fault.world.many_netns("other", 3);
        let others: Vec<_> = others
            .iter()
            .map(|pod| Attachment::new(pod.name(), pod))
            .collect();
        for other in &others {
            add(&small, other);
        }
        let told: (u64, &[&str]) = (
            11,
            &[
                "no IP addresses available",
                "10.22.0.2-10.22.0.4",
                "larger range",
            ],
        );
        fault.is_told_and_overcome(&small, told, || drop(small.del(&others[0]).ok()), &small);
    });
}

#[test]
fn a_route_whose_gateway_nothing_leads_to() {
    on_node(|fault| {
        let lost = bridge(ipam(
            json!({"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}),
        ));
        fault.is_told_and_overcome(
            &lost,
            (999, &["10.9.0.0/16", "192.0.2.1"]),
            || (),
            &bridge(json!({})),
        );
    });
}

/// Somebody's own table has the name of one of ours, and things of other kinds in it.
#[test]
fn an_nft_table_of_another_shape_in_the_way() {
    on_node(|fault| {
        let world = fault.world;
        for (table, line) in [
            (
                "inet weft_pods",
                "add chain inet weft_pods masquerade4; add set inet weft_pods masquerade4 { type inet_service; }",
            ),
            (
                "inet weft_hostports",
                "add map inet weft_hostports any4 { type ipv4_addr : ipv4_addr; }",
            ),
            (
                "bridge weft_macspoof",
                "add set bridge weft_macspoof senders { type ipv4_addr; }; add chain bridge weft_macspoof prerouting",
            ),
        ] {
            let name = table.split(' ').next_back().expect("a name");
            world.exec(&format!(
                "nft delete table {table}; nft 'add table {table}; {line}'"
            ));
            let mend = || drop(world.exec(&format!("nft delete table {table}")));
            fault.is_told_and_overcome(
                &bridge(json!({})),
                (999, &[name]),
                mend,
                &bridge(json!({})),
            );
        }
    });
}

#[test]
fn a_bridge_that_is_something_else() {
    on_node(|fault| {
        let world = fault.world;
        world.exec("ip link del cni0; ip link add cni0 type veth peer name far");
        let mend = || drop(world.exec("ip link del cni0"));
        fault.is_told_and_overcome(
            &bridge(json!({})),
            (7, &["cni0", "not a bridge", "veth"]),
            mend,
            &bridge(json!({})),
        );
    });
}

#[test]
fn a_bridge_with_another_networks_address() {
    on_node(|fault| {
        let world = fault.world;
        world.exec("ip address flush dev cni0; ip address add 10.99.0.1/24 dev cni0");
        let mend = || drop(world.exec("ip address del 10.99.0.1/24 dev cni0"));
        fault.is_told_and_overcome(
            &bridge(json!({})),
            (7, &["cni0", "10.99.0.1/24", "forceAddress"]),
            mend,
            &bridge(json!({})),
        );
    });
}

#[test]
fn an_interface_that_the_pod_has_already() {
    on_node(|fault| {
        fault.pod.exec("ip link add eth0 type veth peer name x");
        let mend = || drop(fault.pod.exec("ip link del eth0"));
        fault.is_told_and_overcome(
            &bridge(json!({})),
            (7, &["eth0", "already exists"]),
            mend,
            &bridge(json!({})),
        );
    });
}

#[test]
fn a_mapping_that_portmap_refuses_after_the_bridge_is_done() {
    on_node(|fault| {
        let bad = json!([{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]);
        let who = fault.who.clone().capability("portMappings", bad);
        let fault = Fault {
            world: fault.world,
            pod: fault.world.netns("other"),
            who,
        };
        let fault = Fault {
            who: fault
                .who
                .clone()
                .netns(&fault.pod.path().display().to_string()),
            ..fault
        };
        fault.is_told_and_overcome(
            &bridge(json!({})),
            (7, &["hostPort"]),
            || (),
            &chain("net", json!([node::bridge_conf("1.0.0", json!({}))])),
        );
    });
}

/// Room for the directories, and for no file's content.
fn small_disk(world: &World, options: &str) {
    world.exec(&format!("mount -t tmpfs -o {options} tmpfs /var/lib/cni; mkdir -p /var/lib/cni/networks/net /var/lib/cni/flannel"));
}

#[test]
fn a_full_disk() {
    on_node(|fault| {
        for (chain, what) in [
            (bridge(json!({})), "/var/lib/cni/networks/net"),
            (flannel(), "/var/lib/cni/flannel"),
        ] {
            let world = fault.world;
            small_disk(world, "size=64k");
            world.exec("touch /var/lib/cni/networks/net/lock; chmod 750 /var/lib/cni/networks/net/lock; head -c 64k /dev/zero > /var/lib/cni/full || true");
            let mend = || drop(world.exec("rm /var/lib/cni/full"));
            fault.is_told_and_overcome(&chain, (5, &[what, "No space left"]), mend, &chain);
            world.exec("umount /var/lib/cni");
        }
    });
}

#[test]
fn a_disk_without_inodes() {
    on_node(|fault| {
        let world = fault.world;
        small_disk(world, "nr_inodes=8");
        world.exec("touch /var/lib/cni/networks/net/lock; chmod 750 /var/lib/cni/networks/net/lock; cd /var/lib/cni; touch 1 2 3 4 5 6 7 8 2>/dev/null || true");
        let mend = || drop(world.exec("umount /var/lib/cni"));
        fault.is_told_and_overcome(
            &bridge(json!({})),
            (5, &["/var/lib/cni/networks/net", "No space left"]),
            mend,
            &bridge(json!({})),
        );
    });
}

#[test]
fn a_read_only_data_directory() {
    on_node(|fault| {
        let world = fault.world;
        for (chain, what) in [
            (bridge(json!({})), "/var/lib/cni/networks/net"),
            (flannel(), "/var/lib/cni/flannel"),
        ] {
            world.exec("mount -t tmpfs tmpfs /var/lib/cni; mkdir -p /var/lib/cni/networks/net /var/lib/cni/flannel; mount -o remount,ro /var/lib/cni");
            let mend = || drop(world.exec("mount -o remount,rw /var/lib/cni"));
            fault.is_told_and_overcome(&chain, (5, &[what, "Read-only"]), mend, &chain);
            world.exec("umount /var/lib/cni");
        }
    });
}

/// What a pod has is given back even where nothing can be written.
#[test]
fn a_pod_is_deleted_from_a_full_disk() {
    on_node(|fault| {
        fault
            .world
            .exec("mount -t tmpfs -o size=256k tmpfs /var/lib/cni");
        for chain in [bridge(json!({})), flannel()] {
            add(&chain, &fault.who);
            fault
                .world
                .exec("head -c 256k /dev/zero > /var/lib/cni/full 2>/dev/null || true");
            chain.del(&fault.who).ok();
            let left = fault
                .world
                .exec("ls /var/lib/cni/networks/net /var/lib/cni/flannel 2>/dev/null || true");
            assert!(
                !left.contains("10.22.0.") && !left.contains("pod"),
                "{left}"
            );
            fault.world.exec("rm /var/lib/cni/full");
        }
    });
}

/// Two pods want one host port: the newest has it, and neither's DEL harms the other.
#[test]
fn a_port_that_another_pod_has() {
    on_node(|fault| {
        let chain = bridge(json!({}));
        let other = fault.world.netns("other");
        let other = with_port(&Attachment::new("other", &other));
        add(&chain, &other);
        let taken = add(&chain, &fault.who);
        let map = || fault.world.exec("nft list map inet weft_hostports any4");
        assert!(map().contains(&ip_of(&taken, 0)), "{}", map());
        chain.del(&other).ok();
        assert!(map().contains(&ip_of(&taken, 0)), "{}", map());
        chain.del(&fault.who).ok();
        assert!(!map().contains("10.22.0."), "{}", map());
    });
}

/// Whoever holds the reservations' lock is waited for, but not for ever.
#[test]
fn a_lock_that_nobody_lets_go() {
    if !skip_unless(&[Need::Tool("flock")]) {
        return;
    }
    on_node(|fault| {
        let holder = fault
            .world
            .spawn("flock --no-fork /var/lib/cni/networks/net/lock sleep 600");
        let try_lock = "flock -n /var/lib/cni/networks/net/lock true";
        wait_until("the lock is held", SECOND, || {
            !Cmd::shell(try_lock).run().success()
        });
        let chain = bridge(json!({}));
        let failed = chain.add(&fault.who);
        let failure = failed.failed().expect("it can't work").failure();
        assert_eq!(failure.code, 11, "{failure:?}");
        assert!(
            failure.msg.contains("/var/lib/cni/networks/net"),
            "{failure:?}"
        );
        drop(holder);
        reaches(&ip_of(&add(&chain, &fault.who), 0));
    });
}
