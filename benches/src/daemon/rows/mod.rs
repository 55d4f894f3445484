//! What is promised of weftd, a file each.
mod converge;
mod idle;
mod live;
mod memory;
mod named;
mod pod_add;
mod race;
mod repair;
mod restart;

use weft_benches::report::Report;

use super::Bench;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(&Bench<'_>, &mut Report),
}

pub(crate) const ALL: &[Row] = &[
    Row {
        name: converge::NAME,
        title: "from exec to the last entry, all leases in etcd beforehand",
        run: converge::run,
    },
    Row {
        name: live::NAME,
        title: "1,000 leases arriving, from the last one written to the last entry",
        run: live::run,
    },
    Row {
        name: restart::NAME,
        title: "restart with 5,000 peers programmed",
        run: restart::run,
    },
    Row {
        name: memory::NAME,
        title: "resident memory",
        run: memory::run,
    },
    Row {
        name: idle::NAME,
        title: "doing nothing, with 5,000 peers and with few",
        run: idle::run,
    },
    Row {
        name: repair::NAME,
        title: "from a removal to the repair, 5,000 peers",
        run: repair::run,
    },
    Row {
        name: named::NAME,
        title: "who did it: drift by programs that live a moment",
        run: named::run,
    },
    Row {
        name: pod_add::NAME,
        title: "pod ADD beside 5,000 peers of which 50 change a second",
        run: pod_add::run,
    },
    Row {
        name: race::NAME,
        title: "200 daemons at once, 200 free subnets",
        run: race::run,
    },
];

pub(crate) fn find(name: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.name == name)
}
