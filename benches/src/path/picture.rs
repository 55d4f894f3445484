//! The run as a picture.
use super::Contestant::{HostGw, Naive, Ours, Vxlan, WireguardGo};
use crate::bars::Picture;
use crate::report::Report;

const PICTURE: Picture<'static> = Picture {
    label: "Packet paths between two nodes, medians",
    legend: &[
        (Ours("fast").name(), "weft, fast", ["#0a7f6f", "#2dd4bf"]),
        (Ours("plain").name(), "weft, plain", ["#9fd8cf", "#1b6f66"]),
        (Vxlan.name(), "kernel VXLAN", ["#57606a", "#9aa4ae"]),
        (HostGw.name(), "host-gw", ["#b8bfc6", "#565d66"]),
        (Naive.name(), "naive loop", ["#d29922", "#bb8009"]),
        (WireguardGo.name(), "wireguard-go", ["#a475c9", "#8957e5"]),
    ],
    left: 230.0,
};

/// What is drawn of what is measured.
const FIGURES: [&str; 10] = [
    "TCP 1 stream",
    "TCP 4 streams",
    "TCP 16 streams",
    "CPU of TCP 4 streams",
    "64 B loss-free",
    "64 B flooded",
    "1400 B loss-free",
    "round trip p50",
    "round trip p99",
    "round trip p99.9",
];

pub(super) fn svg(report: &Report) -> String {
    PICTURE.svg(report, |figure| FIGURES.contains(&&*figure.what))
}
