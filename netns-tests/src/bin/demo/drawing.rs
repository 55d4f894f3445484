//! How things look.
use std::time::Duration;

use serde_json::Value;

/// The two pods, the bridge, and who has which address.
pub(crate) fn pods(first: &Value, second: &Value, host_port: u16, pod_port: u16) {
    let bridge = interface(first, 0);
    let (veth_1, veth_2) = (interface(first, 1), interface(second, 1));
    let (one, two) = (ip(first, 0, "address"), ip(second, 0, "address"));
    let (one6, two6) = (ip(first, 1, "address"), ip(second, 1, "address"));
    let (gateway, gateway6) = (ip(first, 0, "gateway"), ip(first, 1, "gateway"));
    let mapping = format!("host port {host_port} ─► {}:{pod_port}", host(&two));

    println!();
    println!("    ┌─ node ────────────────────────────────────────────┐");
    println!("    │ {mapping:<50}│");
    println!("    │ {:<50}│", format!("{bridge} {gateway} {gateway6}"));
    println!("    │             ┌───────────┴───────────┐             │");
    println!("    │       {veth_1:<15}         {veth_2:<15}     │");
    println!("    └─────────────┼───────────────────────┼─────────────┘");
    println!("    ┌─ pod-1 ─ eth0 ───────┐  ┌─ pod-2 ─ eth0 ──────────┐");
    println!("    │ {one:<21}│  │ {two:<24}│");
    println!("    │ {one6:<21}│  │ {two6:<24}│");
    println!("    └──────────────────────┘  └─────────────────────────┘");
}

/// A duration as a reader takes it in: 3.1 ms, 240 µs.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        micros @ 1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        micros => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

fn interface(result: &Value, index: usize) -> String {
    result["interfaces"][index]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn ip(result: &Value, index: usize, key: &str) -> String {
    result["ips"][index][key]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn host(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}
