//! What happens in the demo, step by step; a step that fails ends it.
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use weft_netns::{Kind, TcpResponder, World, ask_tcp};

use crate::cluster::{BEYOND, Backend, Cluster, Member, NETWORK, conflist};
use crate::paint::{heading, time};
use crate::speed::Speed;
use crate::weftd::Weftd;
use crate::{counters, files, journey, keep, machine, paint, speed, upheaval};

pub(crate) fn tell(world: &World, backend: Backend) {
    introduce(world, backend);
    let mut cluster = Cluster::bare(world);
    raise(&mut cluster, backend);
    draw(&cluster, backend);

    heading("The packet's way");
    journey::show(&cluster, backend);
    show_beyond(&cluster);

    heading("What is on node-1: as flannel writes it (only \"proto\" marks the routes as weftd's)");
    files::show(&cluster);

    heading("Under traffic: daemons killed, kernel state deleted by hand");
    upheaval::show(&mut cluster, backend);

    heading("Throughput: one TCP connection from node-1 to node-2");
    speed::show(&measure(&mut cluster, backend));

    if std::env::var_os(machine::KEEP).is_some_and(|keep| !keep.is_empty()) {
        change_over(&mut cluster, backend);
        heading("Kept for you");
        keep::wait(&cluster, world.kind());
    }
    heading("What is left");
    prove_gone(cluster);
}

fn introduce(world: &World, backend: Backend) {
    println!(
        "\n  {}\n",
        paint::bold("Weft: three nodes, six pods, one network")
    );
    println!(
        "  A private world for this demo: its own network and mounts{}.",
        match world.kind() {
            Kind::Root => "",
            Kind::Rootless => ", and a user\n  namespace in which you are root",
        }
    );
    println!("  Your machine's network is not touched. The nodes are namespaces on one wire;");
    println!("  their leases are in a directory (in a cluster: in etcd).\n");
    println!("    network     {NETWORK}, backend {}", backend.name());
    println!("    plugins     {}", conflist());
}

fn raise(cluster: &mut Cluster, backend: Backend) {
    heading("weftd on three nodes, started at once");
    let began = Instant::now();
    let conf = Cluster::configure(backend);
    println!("    $ weftd --iface=eth0 --ip-masq --embedded-dir=…   with {conf}");
    cluster.start();
    println!(
        "    → every node has a subnet, and its subnet.env, after {}\n",
        time(began.elapsed())
    );
    for member in &mut cluster.members {
        let runs = member.add_pods();
        for (pod, run) in member.pods.iter().zip(&runs) {
            println!(
                "    $ CNI_COMMAND=ADD CNI_CONTAINERID={} … flannel, portmap → {:<12}{:>9}",
                pod.name,
                pod.address(),
                time(run.wall())
            );
        }
    }
    let began = Instant::now();
    cluster.await_paths();
    println!(
        "    → every pod reaches every pod, {} later",
        time(began.elapsed())
    );
}

/// The nodes side by side.
fn draw(cluster: &Cluster, backend: Backend) {
    let row = |left: &str, right: &str, text: &dyn Fn(&Member) -> String| {
        let cells = cluster
            .members
            .iter()
            .map(|m| format!("{left}{:^26}{right}", text(m)));
        println!("    {}", cells.collect::<Vec<_>>().join(" "));
    };
    let pods = |member: &Member, text: &dyn Fn(&crate::cluster::Pod) -> String| {
        member
            .pods
            .iter()
            .map(|pod| format!("{:^13}", text(pod)))
            .collect::<String>()
    };
    println!();
    row(" ", " ", &|m| pods(m, &|pod| pod.name.clone()));
    row(" ", " ", &|m| pods(m, &|pod| pod.address().to_string()));
    row("┌", "┐", &|_| {
        format!("{0}┴{1}┴{0}", "─".repeat(6), "─".repeat(12))
    });
    row("│", "│", &|m| m.node.name.clone());
    row("│", "│", &|m| {
        format!("cni0 {}", m.node.told("FLANNEL_SUBNET"))
    });
    if let Some(device) = backend.device() {
        row("│", "│", &|m| format!("{device} {}", tunnel_address(m)));
    }
    row("│", "│", &|m| format!("eth0 {}", m.node.address));
    row("└", "┘", &|_| {
        format!("{0}┬{1}", "─".repeat(13), "─".repeat(12))
    });
    println!("    {:14}└{1}┴{1}┘", "", "─".repeat(28));
    println!(
        "    {:^87}",
        format!("one wire, 192.168.9.0/24; the world beyond is {BEYOND}")
    );
}

fn tunnel_address(member: &Member) -> String {
    member.node.subnet().replacen(".0/24", ".0", 1)
}

/// Beyond the network nobody knows pods: there, the node's address speaks for them.
fn show_beyond(cluster: &Cluster) {
    let server = TcpResponder::bind(&format!("{BEYOND}:80"));
    let (here, there) = (&cluster.members[0], &cluster.members[1]);
    let pod = &here.pods[0];
    let among = there.pods[0]
        .netns
        .enter(|| TcpResponder::bind("0.0.0.0:80"));
    println!();
    for (what, address) in [
        ("a pod on node-2", there.pods[0].address()),
        ("the world beyond", BEYOND),
    ] {
        let asked = SocketAddr::new(IpAddr::V4(address), 80);
        let seen = pod.netns.enter(|| ask_tcp(&asked.to_string()));
        let seen = seen.unwrap_or_else(|e| panic!("{asked} asked from {}: {e}", pod.name));
        println!(
            "    {} asks {what:<16} {address:<13} and is seen as {}",
            pod.name,
            seen.ip()
        );
    }
    drop((server, among));
}

/// All backends, and each beside what the nodes could do at best at that very time.
fn measure(cluster: &mut Cluster, backend: Backend) -> Vec<Speed> {
    let mut nodes = Speed::new("node to node, no overlay");
    let mut speeds = vec![measure_beside(&mut nodes, cluster, backend)];
    for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
        change_over(cluster, other);
        speeds.push(measure_beside(&mut nodes, cluster, other));
    }
    speeds.insert(0, nodes);
    speeds
}

/// The same leases, another configuration; the pods are made anew, with the MTU that fits it.
fn change_over(cluster: &mut Cluster, backend: Backend) {
    cluster.stop();
    for member in &cluster.members {
        member.del_pods();
    }
    Cluster::configure(backend);
    cluster.start();
    for member in &mut cluster.members {
        member.add_pods();
    }
    cluster.await_paths();
}

fn measure_beside(nodes: &mut Speed, cluster: &Cluster, backend: Backend) -> Speed {
    let mut pods = Speed::new(&format!("pod to pod, {}", backend.name()));
    for _ in 0..speed::ROUNDS {
        nodes.measure_nodes(cluster);
        pods.measure_pods(cluster);
    }
    pods
}

/// The pods go, then the daemons, then what they made: each is looked for.
fn prove_gone(mut cluster: Cluster) {
    for member in &cluster.members {
        member.del_pods();
    }
    for member in &cluster.members {
        for pod in &member.pods {
            let links = pod.netns.enter(counters::links);
            assert_eq!(links, ["lo"], "links are left in {}", pod.name);
        }
        let left = files::left_by_pods(&member.node);
        assert!(left.is_empty(), "{left:?} is left on {}", member.node.name);
    }
    println!("    DEL of six pods         their links, addresses and scratch files are gone");
    cluster.stop();
    for member in &cluster.members {
        let node = &member.node;
        Weftd::clean_up(node);
        let mut links = node.enter(counters::links);
        links.retain(|link| !["lo", "eth0", "cni0"].contains(&&**link));
        assert!(links.is_empty(), "{links:?} are left on {}", node.name);
        let routes = node.exec("ip -4 route");
        let foreign = routes
            .lines()
            .find(|route| route.starts_with("10.") && route.contains("via"));
        assert_eq!(foreign, None, "a route is left on {}", node.name);
    }
    println!("    weftd --cleanup         tunnel devices and routes to other nodes are gone");
}
