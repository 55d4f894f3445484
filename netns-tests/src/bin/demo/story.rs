//! What happens in the demo, step by step; a step that fails ends it.
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cni, Kind, Netns, Run, TcpResponder, World, ask_tcp, ping,
    wait_until_answers,
};

use crate::drawing;

const PATIENCE: Duration = Duration::from_secs(2);
const HOST_PORT: u16 = 8080;
const POD_PORT: u16 = 80;

/// The links, networks and namespaces of this story.
pub(crate) const NAMES: [&str; 6] = ["cni0", "outside", "pods", "pod-1", "pod-2", "client"];

pub(crate) fn tell(world: &World) {
    introduce(world);
    let started = Instant::now();
    let links_before = links();
    let (one, two, client) = (
        world.netns("pod-1"),
        world.netns("pod-2"),
        world.netns("client"),
    );

    heading("ADD: what a container runtime runs for each pod");
    let pods = Chain::new(&Cni::weft(), pod_network());
    let ports = json!([{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}]);
    let first = Attachment::new("pod-1", &one);
    let second = Attachment::new("pod-2", &two).capability("portMappings", ports);
    let first_result = add(&pods, &first);
    let second_result = add(&pods, &second);
    drawing::pods(&first_result, &second_result, HOST_PORT, POD_PORT);

    heading("Pod to pod, and pod to node");
    let gateways = gateways(&first_result);
    for address in addresses(&second_result).iter().chain(&gateways) {
        show_ping(&one, *address);
    }

    heading("The mapped port");
    println!("    A server in pod-2 listens on port {POD_PORT} and tells who asks.");
    println!("    The client is on another network, beyond the node.\n");
    let server = two.enter(|| TcpResponder::bind(&format!("[::]:{POD_PORT}")));
    // The bridge plugin makes the outside world too.
    let outside = Chain::new(&Cni::weft(), outside_network());
    let visitor = Attachment::new("client", &client);
    let node = self::gateways(&outside.add(&visitor).ok().result())[0];
    let from_outside = SocketAddr::new(node, HOST_PORT);
    let from_inside = SocketAddr::new(gateways[0], HOST_PORT);
    show_answer("client", from_outside, client.enter(|| ask(from_outside)));
    show_answer("node", from_inside, ask(from_inside));
    show_answer("pod-1", from_inside, one.enter(|| ask(from_inside)));
    show_answer("pod-2 itself", from_inside, two.enter(|| ask(from_inside)));

    heading("CHECK: is all as ADD left it?");
    show_run(&first, &pods.check(&first).ok());
    show_run(&second, &pods.check(&second).ok());
    println!("      → yes");

    heading("DEL: the pods go");
    show_run(&second, &pods.del(&second).ok());
    show_run(&first, &pods.del(&first).ok());
    outside.del(&visitor).ok();
    drop(server);

    heading("What is left");
    prove_gone(&[&one, &two, &client], &links_before, from_inside);
    prove_forgotten(&[addresses(&first_result), addresses(&second_result)].concat());
    println!(
        "    all of this took        {}",
        drawing::time(started.elapsed())
    );
}

fn introduce(world: &World) {
    println!("\n  Weft: two pods on one bridge\n");
    match world.kind() {
        Kind::Root => println!("  A private world for this demo: its own network and mounts."),
        Kind::Rootless => {
            println!("  A private world for this demo: its own network and mounts, and a user");
            println!("  namespace in which you are root.");
        }
    }
    println!("  Your machine's network is not touched.\n");
    println!("  The network, as a file in /etc/cni/net.d would describe it:\n");
    println!("    name: pods, cniVersion: 1.0.0, plugins:");
    for plugin in pod_network()["plugins"].as_array().into_iter().flatten() {
        for (key, value) in plugin.as_object().into_iter().flatten() {
            let bullet = if key == "type" { "-" } else { " " };
            println!("    {bullet} {key}: {value}");
        }
    }
}

fn pod_network() -> Value {
    let ranges = json!([[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn outside_network() -> Value {
    let ipam = json!({
        "type": "host-local", "subnet": "192.0.2.0/24", "routes": [{"dst": "0.0.0.0/0"}],
    });
    json!({
        "cniVersion": "1.0.0", "name": "outside", "type": "bridge", "bridge": "outside",
        "isGateway": true, "ipam": ipam,
    })
}

fn add(chain: &Chain, who: &Attachment) -> Value {
    let run = chain.add(who).ok();
    show_run(who, &run);
    let result = run.result();
    for ip in result["ips"].as_array().into_iter().flatten() {
        let (address, gateway) = (text(ip, "address"), text(ip, "gateway"));
        println!("      → eth0 has {address}, and routes through {gateway}");
    }
    result
}

/// Each program that was run, as one would type it, and how long it took.
fn show_run(who: &Attachment, run: &Run) {
    for call in &run.calls {
        let Attachment {
            container_id,
            netns,
            ifname,
            ..
        } = who;
        println!(
            "    $ CNI_COMMAND={} CNI_CONTAINERID={container_id} CNI_NETNS={netns} \
             CNI_IFNAME={ifname} {:<8}{:>9}",
            call.verb.name(),
            call.plugin,
            drawing::time(call.done.wall),
        );
    }
}

fn show_ping(from: &Netns, to: IpAddr) {
    // An address may still be on trial, and the first packet also finds the
    // neighbour: the second shows the way itself.
    from.enter(|| wait_until_answers(to));
    let time = from.enter(|| ping(to, PATIENCE));
    let time = time.unwrap_or_else(|e| panic!("{to} answers {} no more: {e}", from.name()));
    println!(
        "    ping from {} to {to:<12}{:>9}",
        from.name(),
        drawing::time(time)
    );
}

fn ask(address: SocketAddr) -> io::Result<SocketAddr> {
    ask_tcp(&address.to_string())
}

fn show_answer(who: &str, asked: SocketAddr, answer: io::Result<SocketAddr>) {
    let seen = answer.unwrap_or_else(|e| panic!("{asked} asked from {who}: {e}"));
    let seen = seen.ip().to_canonical();
    println!("    {who:<12} asks {asked:<15} → pod-2 answers, and saw {seen}");
}

fn prove_gone(namespaces: &[&Netns], links_before: &[String], mapped: SocketAddr) {
    for netns in namespaces {
        assert_eq!(
            netns.enter(links),
            ["lo"],
            "links are left in {}",
            netns.name()
        );
    }
    println!("    links in the pods       none");
    let new: Vec<_> = links()
        .into_iter()
        .filter(|link| !links_before.contains(link))
        .collect();
    assert_eq!(new, ["cni0", "outside"], "links are left on the node");
    println!(
        "    links on the node       the bridges, kept for the next pod: {}",
        new.join(", ")
    );
    assert_eq!(reservations(), Vec::<String>::new(), "addresses are leaked");
    println!("    reserved addresses      none");
    assert!(ask(mapped).is_err(), "{mapped} still answers");
    println!("    host port {HOST_PORT}          nobody answers");
}

/// The one proof that takes a program of somebody else, so it may be missing.
fn prove_forgotten(addresses: &[IpAddr]) {
    let Ok(listed) = Command::new("nft").args(["list", "ruleset"]).output() else {
        println!("    nftables                not looked at: there is no nft program");
        return;
    };
    let rules = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = |line: &&str| {
        let mut words = line.split(|c: char| !(c.is_ascii_hexdigit() || ".:".contains(c)));
        words.any(|word| {
            word.parse()
                .is_ok_and(|address| addresses.contains(&address))
        })
    };
    assert_eq!(rules.lines().find(names), None, "a rule is left");
    println!("    nftables                no rule and no map element names a pod");
}

/// The addresses that host-local holds, over all networks.
fn reservations() -> Vec<String> {
    let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
    let networks = list("/var/lib/cni/networks").map(|entry| entry.path());
    let files = networks.flat_map(|network| list(&network.display().to_string()));
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.parse::<IpAddr>().is_ok())
        .collect()
}

/// The links of the calling thread's network.
pub(crate) fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| text(ip, "address").split('/').next()?.parse().ok())
        .collect()
}

fn gateways(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| text(ip, "gateway").parse().ok())
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn heading(what: &str) {
    println!("\n  {what}\n");
}
