//! What is done to a cluster under traffic, and how it takes it.
use std::ops::Range;

use crate::cluster::{Backend, Cluster, Member, NETWORK};
use crate::operator::Operator;
use crate::paint;
use crate::strip::{EVERY, LIMIT, Strip};
use crate::weftd::Weftd;

/// How many pings go by between two troubles.
const CALM: usize = 90;

/// What the strip showed of one trouble.
struct Trouble {
    what: String,
    pings: Range<usize>,
    /// The line in which weftd tells who it was, if somebody was.
    told: Option<String>,
}

pub(crate) fn show(cluster: &mut Cluster, backend: Backend) {
    let [first, second, _] = &mut cluster.members[..] else {
        panic!("the cluster has three nodes");
    };
    let (to, way) = (second.pods[0].address(), second.node.subnet());
    let back = first.node.subnet();
    println!(
        "    {} on {} pings {} on {}, every {} ms. {} answered, {} lost (no answer in {} ms)\n",
        first.pods[0].name,
        first.node.name,
        second.pods[0].name,
        second.node.name,
        EVERY.as_millis(),
        paint::good("·"),
        paint::bad("x"),
        LIMIT.as_millis(),
    );
    let pod = first.pods.remove(0);
    let mut troubles = Vec::new();
    let answered = Strip::during(&pod.netns, to, |strip| {
        strip.let_pass(CALM / 2);
        // A packet path that is a daemon's own goes on with the next one.
        troubles.push(match backend {
            Backend::Udp => succeed_both(strip, first, second),
            Backend::Vxlan | Backend::HostGw => kill_both(strip, first, second),
        });
        let way = match backend {
            Backend::Udp => NETWORK,
            Backend::Vxlan | Backend::HostGw => &way,
        };
        troubles.push(delete(strip, first, &format!("route del {way}")));
        troubles.push(match backend.device() {
            Some(device) => delete(strip, first, &format!("link del {device}")),
            None => delete(strip, second, &format!("route del {back}")),
        });
        if backend == Backend::Udp {
            troubles.push(kill_and_start(strip, first));
        }
    });
    first.pods.insert(0, pod);
    println!();
    for trouble in &troubles {
        tell(trouble, &answered);
    }
    let killed = lost(&answered, &troubles[0].pings);
    assert!(
        killed == 0,
        "{killed} pings were lost although only daemons were replaced"
    );
    assert!(answered.last() == Some(&true), "{to} answers no more");
}

fn succeed_both(strip: &Strip, first: &mut Member, second: &mut Member) -> Trouble {
    let from = strip.mark("weftd --take-over on node-1, and on node-2");
    for member in [&mut *first, &mut *second] {
        let weftd = member.weftd.take().expect("a daemon that was started");
        member.weftd = Some(weftd.succeeded(&member.node));
        member.weftd().await_ready(&member.node);
    }
    strip.let_pass(CALM);
    Trouble {
        what: "both daemons replaced".to_owned(),
        pings: from..strip.sent(),
        told: None,
    }
}

fn kill_and_start(strip: &Strip, member: &mut Member) -> Trouble {
    let from = strip.mark("kill -9: weftd on node-1, started again at once");
    if let Some(weftd) = member.weftd.take() {
        weftd.kill();
    }
    member.weftd = Some(Weftd::start(&member.node));
    member.weftd().await_ready(&member.node);
    strip.let_pass(CALM);
    Trouble {
        what: "kill -9, and a start".to_owned(),
        pings: from..strip.sent(),
        told: None,
    }
}

fn kill_both(strip: &Strip, first: &mut Member, second: &mut Member) -> Trouble {
    let from = strip.mark("kill -9: weftd on node-1, weftd on node-2");
    for member in [&mut *first, &mut *second] {
        if let Some(weftd) = member.weftd.take() {
            weftd.kill();
        }
    }
    strip.let_pass(CALM);
    strip.mark("both are started again");
    for member in [&mut *first, &mut *second] {
        member.weftd = Some(Weftd::start(&member.node));
    }
    for member in [&*first, &*second] {
        member.weftd().await_ready(&member.node);
    }
    strip.mark("both have looked through the kernel");
    strip.let_pass(CALM);
    Trouble {
        what: "kill -9 of both daemons".to_owned(),
        pings: from..strip.sent(),
        told: None,
    }
}

/// Somebody on the node runs `ip` to do `deed`; weftd repairs it and tells who it was.
fn delete(strip: &Strip, member: &Member, deed: &str) -> Trouble {
    let mut operator = Operator::at(&member.node);
    let culprit = format!("pid {} (ip)", operator.pid());
    let log = member.weftd().log().len();
    let from = strip.mark(&format!("{}: ip {deed}", member.node.name));
    operator.types(deed);
    let told = member.weftd().await_said(&culprit, log);
    strip.let_pass(CALM);
    Trouble {
        what: format!("ip {deed}"),
        pings: from..strip.sent(),
        told: Some(told),
    }
}

fn tell(trouble: &Trouble, answered: &[bool]) {
    let (lost, of) = (lost(answered, &trouble.pings), trouble.pings.len());
    let outage = EVERY * u32::try_from(lost).unwrap_or(u32::MAX);
    let summary = match lost {
        0 => paint::good(&format!("0 of {of} pings lost")),
        _ => format!("{lost} of {of} pings lost: {} ms", outage.as_millis()),
    };
    println!("    {:<32}{summary}", trouble.what);
    if let Some(told) = &trouble.told {
        println!("      {} {told}", paint::dim("weftd:"));
    }
}

fn lost(answered: &[bool], pings: &Range<usize>) -> usize {
    let within = answered.get(pings.clone()).unwrap_or_default();
    within.iter().filter(|answered| !**answered).count()
}
