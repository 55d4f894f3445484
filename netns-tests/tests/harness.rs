//! The test library, tested: a harness that cannot fail proves nothing.
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cmd, Cni, Kind, Need, Netns, Outcome, TcpResponder, UdpResponder, Watch,
    World, ask_tcp, ask_udp, in_rootless_world, in_world, kill_at_syscall, ping, skip_unless,
    trace, wait_until, wait_until_answers,
};

const GO: [Need; 4] = [
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("iptables"),
    Need::File("/usr/lib/cni/bridge"),
];
const SECOND: Duration = Duration::from_secs(1);

fn bridge_conflist(version: &str) -> Value {
    let ranges = json!([[{"subnet": "10.22.0.0/24"}]]);
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    });
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": version, "name": "net", "plugins": [bridge, portmap]})
}

/// Two namespaces on a wire: `left` 10.0.0.1, fd00::1 and `right` 10.0.0.2, fd00::2.
fn wire(world: &World) -> (Netns, Netns) {
    let (left, right) = (world.netns("left"), world.netns("right"));
    world.exec("ip link add name wire-l netns left type veth peer name wire-r netns right");
    for (netns, link, number) in [(&left, "wire-l", 1), (&right, "wire-r", 2)] {
        netns.exec(&format!("ip link set {link} up; ip link set lo up"));
        netns.exec(&format!("ip address add 10.0.0.{number}/24 dev {link}"));
        netns.exec(&format!(
            "ip address add fd00::{number}/64 dev {link} nodad"
        ));
    }
    for far in ["10.0.0.2", "fd00::2"] {
        left.enter(|| wait_until_answers(address(far)));
    }
    (left, right)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_world_has_its_own_network_mounts_and_state() {
    let mine = std::fs::read_link("/proc/self/ns/net").unwrap();
    in_world(|world| {
        let links = std::fs::read_to_string("/proc/net/dev").unwrap();
        assert_eq!(links.matches(':').count(), 1, "loopback alone:\n{links}");
        assert_eq!(std::fs::read_dir("/var/lib/cni").unwrap().count(), 0);
        std::fs::write("/var/lib/cni/weft-harness", "").unwrap();
        std::fs::write("/run/weft-harness", "").unwrap();
        let etc = world.private_dir("/etc/cni/net.d");
        std::fs::write(etc.join("weft-harness"), "").unwrap();
        assert!(
            Path::new("/etc/passwd").exists(),
            "the neighbours are still there"
        );
        ping(address("127.0.0.1"), SECOND).expect("loopback is up");
    });
    let still = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(mine, still, "the tester stays where it was");
    for left in [
        "/var/lib/cni/weft-harness",
        "/run/weft-harness",
        "/etc/cni/net.d/weft-harness",
    ] {
        assert!(!Path::new(left).exists(), "{left}");
    }
}

#[test]
fn a_world_of_an_ordinary_user_has_its_own_root() {
    in_rootless_world(|world| {
        assert_eq!(world.kind(), Kind::Rootless);
        assert!(nix::unistd::geteuid().is_root());
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert!(map.split_whitespace().last() == Some("1"), "{map}");
        ping(address("::1"), SECOND).expect("loopback is up");
    });
}

#[test]
fn the_real_root_gets_no_user_namespace() {
    if !skip_unless(&[Need::Root]) || std::env::var_os("WEFT_ROOTLESS").is_some() {
        return;
    }
    in_world(|world| {
        assert_eq!(world.kind(), Kind::Root);
        let parent = format!("/proc/{}/ns/user", nix::unistd::getppid());
        let inode = |path: &str| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&parent), inode("/proc/self/ns/user"));
    });
}

#[test]
fn an_ordinary_user_can_run_a_chain() {
    if !skip_unless(&GO) || !skip_unless(&[Need::Root, Need::Tool("setpriv")]) {
        return;
    }
    // This test binary again, as nobody, who must find it in a place he may read.
    let dir = std::env::temp_dir().join(format!("weft-harness-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let copy = dir.join("harness");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let done = Cmd::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", "debians_go_chain_is_added_checked_and_deleted"])
        .run();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(done.ok().stdout.contains("1 passed"));
}

#[test]
#[should_panic(expected = "failed in its world")]
fn a_failure_inside_fails_the_test_outside() {
    in_world(|_| panic!("as planned"));
}

#[test]
fn what_a_test_leaves_running_ends_with_its_world() {
    let file = |outer: u32| format!("/tmp/weft-harness-daemon-{outer}");
    in_world(|world| {
        // The world's parent is the process outside.
        let file = file(nix::unistd::getppid().as_raw().unsigned_abs());
        world.exec(&format!("setsid sleep 600 & echo $! > {file}"));
        assert!(
            Path::new("/proc")
                .join(std::fs::read_to_string(file).unwrap().trim())
                .exists()
        );
    });
    let file = file(std::process::id());
    let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    std::fs::remove_file(&file).unwrap();
    wait_until("the daemon is gone", SECOND * 5, || {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        !line.is_ok_and(|line| line.contains("sleep"))
    });
}

#[test]
fn namespaces_are_those_of_iproute2_and_end_when_dropped() {
    if !skip_unless(&[Need::Tool("ip")]) {
        return;
    }
    in_world(|world| {
        let pods = world.many_netns("pod", 3);
        assert_eq!(world.exec("ip netns list | wc -l").trim(), "3");
        assert!(world.exec("ip -n pod-1 link show").contains("lo"));
        let inode = |netns: &Netns| std::fs::metadata(netns.path()).unwrap().ino();
        assert_ne!(inode(&pods[0]), inode(&pods[1]));
        let inside = pods[0].exec("stat -Lc %i /proc/self/ns/net");
        assert_eq!(inside.trim(), inode(&pods[0]).to_string());
        drop(pods);
        assert_eq!(world.exec("ip netns list"), "");
    });
}

#[test]
fn responders_tell_who_asked_over_both_families() {
    if !skip_unless(&[Need::Tool("ip")]) {
        return;
    }
    in_world(|world| {
        let (left, right) = wire(world);
        let _tcp = right.enter(|| TcpResponder::bind("[::]:80"));
        let _udp = right.enter(|| UdpResponder::bind("10.0.0.2:53"));
        let seen = left.enter(|| ask_tcp("[fd00::2]:80")).unwrap();
        assert_eq!(seen.ip(), address("fd00::1"));
        let seen = left.enter(|| ask_udp("10.0.0.2:53")).unwrap();
        assert_eq!(seen.ip(), address("10.0.0.1"));
        assert!(left.enter(|| ask_tcp("10.0.0.2:81")).is_err());
    });
}

#[test]
fn ping_answers_when_there_is_somebody_and_only_then() {
    if !skip_unless(&[Need::Tool("ip")]) {
        return;
    }
    in_world(|world| {
        let (left, _right) = wire(world);
        left.enter(|| ping(address("10.0.0.2"), SECOND)).unwrap();
        left.enter(|| ping(address("fd00::2"), SECOND)).unwrap();
        let nobody = left.enter(|| ping(address("10.0.0.3"), Duration::from_millis(50)));
        assert!(nobody.is_err());
    });
}

#[test]
fn a_snapshot_sees_what_was_planted() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let watch = Watch::node().netns(&pod);
        let before = watch.take();
        before.assert_same(&watch.take(), "with nothing done");
        world.exec("ip link add planted type veth peer name other netns pod");
        world.exec("iptables -t nat -A POSTROUTING -s 10.0.0.1 -j MASQUERADE");
        world.exec("nft add table inet planted");
        std::fs::write("/var/lib/cni/planted", "x").unwrap();
        let difference = before.difference(&watch.take());
        let text = difference.to_string();
        for planted in [
            "planted",
            "other",
            "MASQUERADE",
            "/var/lib/cni/planted",
            "pod: link",
        ] {
            assert!(text.contains(planted), "{planted} is missing from\n{text}");
        }
        assert!(difference.gone.is_empty(), "{text}");
        world.exec("ip link del planted; nft flush ruleset; rm /var/lib/cni/planted");
        before.assert_same(&watch.take(), "after all was taken away");
    });
}

#[test]
fn a_snapshot_sees_a_duplicate_rule() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        world.exec("iptables -t nat -A POSTROUTING -s 10.0.0.1 -j MASQUERADE");
        let before = Watch::node().take();
        world.exec("iptables -t nat -A POSTROUTING -s 10.0.0.1 -j MASQUERADE");
        assert!(!before.difference(&Watch::node().take()).is_empty());
    });
}

#[test]
fn debians_go_chain_is_added_checked_and_deleted() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let before = Watch::node().netns(&pod).take();
        let chain = Chain::new(&Cni::debian(), bridge_conflist("1.0.0"));
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let who = Attachment::new("pod-1", &pod).capability("portMappings", ports);

        let added = chain.add(&who).ok();
        assert_eq!(added.calls.len(), 2);
        assert!(added.wall() > Duration::ZERO && added.cpu() > Duration::ZERO);
        assert_eq!(added.result()["ips"][0]["address"], "10.22.0.2/24");
        // The CHECK of Debian's portmap wants IPv6 rules that its ADD never made.
        assert_eq!(
            chain.check(&who).failed().map(|call| &*call.plugin),
            Some("portmap")
        );

        let _server = pod.enter(|| TcpResponder::bind("0.0.0.0:80"));
        ask_tcp("10.22.0.1:8080").expect("the mapped port answers");

        let deleted = chain.del(&who).ok();
        assert_eq!(deleted.calls[0].plugin, "portmap", "DEL goes in reverse");
        assert_eq!(chain.result_of(&who), None);
        let after = Watch::node().netns(&pod).take();
        let left = before.difference(&after).to_string();
        for gone in ["veth", "networks/net/10.22.0.2", "CNI-DN-", "pod: "] {
            assert!(!left.contains(gone), "{gone} is left in\n{left}");
        }
        assert!(left.contains("cni0"), "the bridge stays:\n{left}");
    });
}

#[test]
fn a_go_bridge_with_a_vlan_tags_its_port() {
    if !skip_unless(&GO) || !skip_unless(&[Need::vlan_filtering()]) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let mut list = bridge_conflist("0.4.0");
        list["plugins"] = json!([{"type": "bridge", "bridge": "cni0", "vlan": 7, "ipam": {}}]);
        Chain::new(&Cni::debian(), list)
            .add(&Attachment::new("pod-1", &pod))
            .ok();
        let ports = world.exec("bridge vlan show");
        assert!(ports.contains("7 PVID Egress Untagged"), "{ports}");
    });
}

#[test]
fn a_failed_plugin_ends_the_chain_and_says_why() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let chain = Chain::new(&Cni::debian(), bridge_conflist("1.0.0"));
        let pod = world.netns("pod");
        let nowhere = Attachment::new("pod-1", &pod).netns("/run/netns/none");
        let run = chain.add(&nowhere);
        assert_eq!(run.calls.len(), 1);
        let failure = run.failed().expect("no namespace, no pod").failure();
        assert!(failure.msg.contains("/run/netns/none"), "{failure:?}");
    });
}

#[test]
fn before_0_4_0_a_runtime_passes_no_result_on_del() {
    in_world(|world| {
        // A plugin that keeps what it was given.
        let bin = world.scratch("bin");
        let script = "#!/bin/sh\ncat > /run/seen-$CNI_COMMAND\necho '{\"ips\":[]}'\n";
        std::fs::write(bin.join("spy"), script).unwrap();
        world.exec(&format!("chmod +x {}/spy", bin.display()));
        let seen = |verb: &str| {
            let text = std::fs::read_to_string(format!("/run/seen-{verb}")).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let pod = world.netns("pod");
        for (version, passed) in [("0.3.1", false), ("0.4.0", true)] {
            let list = json!({"name": "n", "cniVersion": version, "plugins": [{"type": "spy"}]});
            let chain = Chain::new(&Cni::in_dirs(&[&bin]), list);
            let who = Attachment::new("pod-1", &pod);
            let result = chain.add(&who).result();
            assert_eq!(
                result["cniVersion"], version,
                "a result takes the network's version"
            );
            chain.del(&who).ok();
            assert_eq!(seen("DEL").get("prevResult").is_some(), passed, "{version}");
            assert!(seen("ADD").get("prevResult").is_none());
        }
    });
}

#[test]
fn a_program_is_killed_just_before_its_nth_system_call() {
    in_world(|world| {
        let dir = world.scratch("kill");
        // Every file is one more system call that a killed shell does not make.
        let touch = (0..9)
            .map(|i| format!(": > {}/{i};", dir.display()))
            .collect::<String>();
        let cmd = Cmd::shell(&touch);
        let whole = trace(&cmd);
        assert_eq!((whole.done.code(), whole.execs), (Some(0), 1));
        let made = || std::fs::read_dir(&dir).unwrap().count();
        let mut counts = Vec::new();
        for n in 1..=whole.syscalls {
            world.exec(&format!("rm -f {}/*", dir.display()));
            let Outcome::Killed { in_vain, .. } = kill_at_syscall(&cmd, n) else {
                panic!("not killed at {n}")
            };
            counts.push(made());
            assert!(!in_vain || counts.ends_with(&[made(), made()]), "at {n}");
        }
        assert!(counts.is_sorted(), "{counts:?}");
        assert_eq!((counts[0], counts[counts.len() - 1]), (0, 9));
        let Outcome::Finished(trace) = kill_at_syscall(&cmd, whole.syscalls + 1) else {
            panic!("killed at a system call that is not made")
        };
        assert_eq!(trace.syscalls, whole.syscalls);
    });
}

#[test]
fn executions_and_memory_of_all_descendants_are_counted() {
    let traced = trace(&Cmd::shell("/bin/true; /bin/true; echo said; exit 4").stdin("unread"));
    assert_eq!((traced.execs, traced.done.code()), (3, Some(4)));
    assert_eq!(traced.done.stdout, "said\n");
    assert!(
        (500..50_000).contains(&traced.peak_memory_kib),
        "{traced:?}"
    );
}

#[test]
fn a_killed_program_takes_its_descendants_along() {
    let mark = format!("600.{}", std::process::id());
    let cmd = Cmd::shell(&format!("sleep {mark} & wait"));
    // It would wait for ever: what is counted is certain to be reached before.
    assert!(matches!(kill_at_syscall(&cmd, 60), Outcome::Killed { .. }));
    let alive = Cmd::new("pgrep")
        .args(["-f", &format!("^sleep {mark}")])
        .run();
    assert_eq!(alive.stdout, "");
}

#[test]
fn a_whole_chain_is_traced() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let chain = Chain::new(&Cni::debian(), bridge_conflist("0.4.0"));
        let who = Attachment::new("pod-1", &pod);
        let run = chain.traced().add(&who).ok();
        assert!(
            run.execs > 3,
            "bridge, host-local, portmap and some of iptables: {run:?}"
        );
        assert!(run.syscalls > 1000 && run.peak_memory_kib > 1000, "{run:?}");
        assert_eq!(run.result()["ips"][0]["address"], "10.22.0.2/24");
        chain.del(&who).ok();
    });
}

#[test]
fn a_whole_chain_is_killed_in_any_of_its_plugins() {
    in_world(|world| {
        // Two plugins that each leave a file as the last thing they do.
        let bin = world.scratch("bin");
        let script = "#!/bin/sh\necho {}\n: > /run/$0-was-here\n";
        for plugin in ["one", "two"] {
            std::fs::write(bin.join(plugin), script.replace("$0", plugin)).unwrap();
        }
        world.exec(&format!("chmod +x {}/*", bin.display()));
        let plugins = json!([{"type": "one"}, {"type": "two"}]);
        let list = json!({"name": "n", "cniVersion": "1.0.0", "plugins": plugins});
        let chain = Chain::new(&Cni::in_dirs(&[&bin]), list);
        let pod = world.netns("pod");
        let who = Attachment::new("pod-1", &pod);

        let mut killed = Vec::new();
        for n in 1.. {
            world.exec("rm -f /run/*-was-here");
            let run = chain.killed_at(n).add(&who);
            let was_here = |plugin: &str| Path::new(&format!("/run/{plugin}-was-here")).exists();
            let Some(plugin) = run.killed_in else {
                assert_eq!(run.syscalls, n - 1);
                break;
            };
            assert!(
                plugin == "one" || was_here("one"),
                "two runs only after one, at {n}"
            );
            assert_eq!(chain.result_of(&who), None, "a killed ADD has no result");
            killed.push(plugin);
        }
        killed.dedup();
        assert_eq!(killed, ["one", "two"]);
    });
}

#[test]
fn a_skip_is_loud_recorded_and_refused_in_ci_when_it_could_be_mended() {
    let record = std::env::temp_dir().join(format!("weft-skips-{}", std::process::id()));
    let run = |test: &str, ci: &str| {
        Cmd::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--include-ignored"])
            .env("CI", ci)
            .env("PATH", "/nowhere")
            .env("WEFT_SKIPS", &record)
            .run()
    };
    let warp = "SKIP needs_a_warp_drive: needs a kernel with warp drive";
    for ci in ["", "true"] {
        assert!(run("needs_a_warp_drive", ci).ok().stderr.contains(warp));
    }
    let setpriv = "SKIP needs_setpriv: needs setpriv (Debian package util-linux)";
    assert!(run("needs_setpriv", "").ok().stderr.contains(setpriv));
    assert!(!run("needs_setpriv", "true").success());

    let recorded = std::fs::read_to_string(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    assert_eq!(recorded, format!("{warp}\n{warp}\n{setpriv}\n"));
}

#[test]
#[ignore = "run by the test of skips"]
fn needs_a_warp_drive() {
    assert!(!skip_unless(&[Need::Kernel("warp drive", false)]));
}

#[test]
#[ignore = "run by the test of skips"]
fn needs_setpriv() {
    assert!(!skip_unless(&[Need::Tool("setpriv")]));
}
