//! Ends by Ctrl-C: at once while the story is told, or after a look around.
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use weft_netns::{Cmd, Kind, Running};

use crate::cluster::Cluster;
use crate::{paint, stop_signals};

/// What shells say of a program that ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// The outer program ends what is left.
pub(crate) fn end_when_told() {
    std::thread::spawn(|| {
        if stop_signals().wait().is_ok() {
            println!("\n\n  Interrupted: the world of the demo ends.\n");
            std::process::exit(INTERRUPTED);
        }
    });
}

/// Shows how to get in, and what node-1's weftd tells, until Ctrl-C.
pub(crate) fn wait(cluster: &Cluster, kind: Kind) {
    let (first, second) = (&cluster.members[0], &cluster.members[1]);
    // Somebody who stays, for others to follow.
    let stays = || Cmd::new("sleep").arg("infinity").spawn();
    let (on_node, in_pod) = (first.node.enter(stays), first.pods[0].netns.enter(stays));
    let enter = |whom: &Running, more: &str| match kind {
        Kind::Root => format!("nsenter -t {} -n{more}", whom.pid()),
        Kind::Rootless => format!(
            "nsenter -t {} -U --preserve-credentials -n{more}",
            whom.pid()
        ),
    };
    let (pod, node) = (enter(&in_pod, ""), enter(&on_node, " -m"));
    let (to, way) = (second.pods[0].address(), second.node.subnet());
    println!("    Try, in another terminal:\n");
    println!(
        "      {}",
        paint::dim("# pod-1a pings a pod on another node")
    );
    println!("      {pod} ping {to}");
    println!(
        "      {}",
        paint::dim("# take its route away, and read below who did it")
    );
    println!("      {node} ip route del {way}");
    println!(
        "      {}",
        paint::dim("# look at the node as flannel's tools would")
    );
    println!("      {node} cat /run/flannel/subnet.env");
    println!("\n    Ctrl-C ends the cluster. What weftd on node-1 says until then:\n");
    follow(&|| first.weftd().log());
    println!();
}

fn follow(log: &dyn Fn() -> String) {
    let signals =
        SignalFd::with_flags(&stop_signals(), SfdFlags::SFD_CLOEXEC).expect("listen for signals");
    let mut told = log().len();
    loop {
        let text = log();
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text.get(told..complete).unwrap_or_default().lines() {
            println!("    {line}");
        }
        told = told.max(complete);
        let look_again = PollTimeout::from(200u16);
        let mut wanted = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, look_again).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}
