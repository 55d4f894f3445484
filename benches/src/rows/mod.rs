//! The rows of the table, one file each.
mod chain;
mod cold;
mod host_local;
mod parallel;
mod portmap;
mod size;
mod start;
mod throughput;

use crate::Bench;
use crate::report::Report;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(&Bench, &mut Report),
}

pub(crate) const ALL: &[Row] = &[
    Row {
        name: chain::NAME,
        title: "bridge + host-local + portmap, ipMasq on",
        run: chain::run,
    },
    Row {
        name: chain::PLAIN,
        title: "bridge + host-local",
        run: chain::run_plain,
    },
    Row {
        name: host_local::NAME,
        title: "host-local on a full node",
        run: host_local::run,
    },
    Row {
        name: parallel::NAME,
        title: "many pods, 32 at a time",
        run: parallel::run,
    },
    Row {
        name: portmap::NAME,
        title: "portmap on a node with many mappings",
        run: portmap::run,
    },
    Row {
        name: cold::NAME,
        title: "the first ADD with an empty page cache",
        run: cold::run,
    },
    Row {
        name: throughput::NAME,
        title: "TCP on one node",
        run: throughput::run,
    },
    Row {
        name: size::NAME,
        title: "size and memory",
        run: size::run,
    },
    Row {
        name: start::NAME,
        title: "process start: VERSION",
        run: start::run,
    },
];

pub(crate) fn find(name: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.name == name)
}
