//! How weftd is started, asked and ended: as flanneld is.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use weft_netns::{Cmd, in_world, wait_until};

use crate::harness::{Cluster, LIMIT, Node, VXLAN};

fn weftd() -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_weftd"))
}

#[test]
fn told_to_stop_it_ends_well_and_leaves_the_data_plane() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let whole = nodes[0].state();
        for signal in [Signal::TERM, Signal::INT] {
            let done = nodes[0].end(signal);
            assert_eq!(done.code(), Some(0), "{}", done.stderr);
            assert_eq!(nodes[0].state(), whole);
            assert!(nodes[0].subnet_file().exists());
            strip.sees_more();
            nodes[0].start();
            nodes[0].until_ready();
        }
        assert_eq!(nodes[0].state(), whole);
        strip.ends_whole();
    });
}

#[test]
fn it_stops_at_once_also_while_it_waits_for_its_store() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let mut node = cluster.node(1);
        // Nobody is there.
        node.flags[0] = "--etcd-endpoints=http://192.168.9.99:2379".to_owned();
        node.start();
        node.until_told(&["192.168.9.99"]);
        let done = node.terminate();
        assert_eq!(done.code(), Some(0), "{}", done.stderr);
    });
}

#[test]
fn a_second_one_on_a_node_is_refused_and_the_first_named() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, _pods) = cluster.of(1);
        let whole = nodes[0].state();
        let done = nodes[0].command().run();
        assert_eq!(done.code(), Some(1), "{}", done.stderr);
        let pid = nodes[0].pid().to_string();
        for part in ["another weftd", &pid] {
            assert!(done.stderr.contains(part), "{}", done.stderr);
        }
        assert!(nodes[0].lives() && nodes[0].is_ready());
        assert_eq!(nodes[0].state(), whole);
        // A lock ends with its process, however that ends.
        nodes[0].kill9();
        nodes[0].start();
        nodes[0].until_ready();
    });
}

#[test]
fn an_unknown_flag_is_an_error_with_a_hint() {
    in_world(|_| {
        let done = weftd().arg("--etcd-endpoint=http://10.0.0.1:2379").run();
        assert_eq!(done.code(), Some(2));
        assert_eq!(done.stdout, "");
        for part in ["etcd-endpoint", "etcd-endpoints"] {
            assert!(done.stderr.contains(part), "{}", done.stderr);
        }
    });
}

#[test]
fn the_version_is_told_on_standard_error() {
    in_world(|_| {
        for flag in ["-version", "--version"] {
            let done = weftd().arg(flag).run();
            assert_eq!((done.code(), &*done.stdout), (Some(0), ""));
            assert!(
                done.stderr.contains(env!("CARGO_PKG_VERSION")),
                "{}",
                done.stderr
            );
        }
    });
}

/// `--ip-masq` and `--run-dir=x` as their twins in the environment.
fn in_environment(node: &Node<'_>) -> Cmd {
    let mut command = weftd().inside(&node.netns);
    for flag in &node.flags {
        let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
        let name = name
            .trim_start_matches('-')
            .replace('-', "_")
            .to_uppercase();
        command = command.env(format!("FLANNELD_{name}"), value);
    }
    command
}

#[test]
fn the_environment_says_all_that_flags_can() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let node = cluster.node(1);
        let running = in_environment(&node)
            .env("FLANNELD_HEALTHZ_PORT", "no number")
            .spawn();
        wait_until("it is ready", LIMIT, || node.is_ready());
        assert_eq!(node.subnet_env()["FLANNEL_IPMASQ"], "true");
        let said = running.said_so_far();
        assert!(said.contains("FLANNELD_HEALTHZ_PORT"), "{said}");
        drop(running);
        // A flag on the command line counts more.
        let running = in_environment(&node).arg("-ip-masq=false").spawn();
        wait_until("it is ready", LIMIT, || node.is_ready());
        assert_eq!(
            node.subnet_env()["FLANNEL_IPMASQ"],
            "false",
            "{}",
            running.said_so_far()
        );
    });
}

fn get(node: &Node<'_>, path: &str) -> Option<String> {
    let mut stream = node
        .netns
        .enter(|| TcpStream::connect("127.0.0.1:8081"))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// As the manifests probe flanneld.
#[test]
fn probes_see_a_start_as_flanneld_shows_it() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let mut node = cluster.unplugged(0, 1);
        node.flags.push("--healthz-port=8081".to_owned());
        node.start();
        let is = |path: &str, code: &str| {
            get(&node, path).is_some_and(|answer| answer.starts_with(&format!("HTTP/1.1 {code}")))
        };
        wait_until("it is healthy", LIMIT, || is("/healthz", "200"));
        assert!(is("/readyz", "503"));
        assert!(!node.subnet_file().exists());
        node.plug_in();
        wait_until("it is ready", LIMIT, || is("/readyz", "200"));
        assert!(node.subnet_file().exists());
        let metrics = get(&node, "/metrics").unwrap();
        assert!(metrics.contains("weft"), "{metrics}");
    });
}
