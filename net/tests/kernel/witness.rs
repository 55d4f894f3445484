//! Who did what, by a witness in the kernel: of programs that are long gone.

use std::process::Command;

use weft_net::Rtnl;
use weft_net::route::Requests;
use weft_net::watch::{Event, Filter, News, Watch, Witness};
use weft_netns::{Need, skip_unless};

use crate::watch::{overlay, peer};
use crate::world::in_fresh_namespace;

/// flannel.1, with the entries of peer 2.
fn overlay_with_a_peer(rtnl: &mut Rtnl) {
    let link = overlay(rtnl);
    let (neighbour, forward, route) = peer(link, 2);
    let mut requests = Requests::new();
    let _ = requests.replace_neighbour(&neighbour);
    let _ = requests.replace_fdb(&forward);
    let _ = requests.replace_route(&route);
    rtnl.run(requests).unwrap().all().unwrap();
}

struct Deed {
    program: &'static str,
    line: &'static str,
    fits: fn(&News) -> bool,
}

const DEEDS: [Deed; 4] = [
    Deed {
        program: "ip",
        line: "ip route del 10.1.2.0/24",
        fits: |news| matches!(news, News::Route { gone: true, .. }),
    },
    Deed {
        program: "ip",
        line: "ip neigh del 10.1.2.0 dev flannel.1",
        fits: |news| matches!(news, News::Neighbour { gone: true, .. }),
    },
    Deed {
        program: "bridge",
        line: "bridge fdb del 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self",
        fits: |news| matches!(news, News::Fdb { gone: true, .. }),
    },
    Deed {
        program: "ip",
        line: "ip link del flannel.1",
        fits: |news| matches!(news, News::Link { gone: true, .. }),
    },
];

/// Runs it to its end; its number.
fn done_by(line: &str) -> u32 {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let mut child = Command::new(program).args(words).spawn().unwrap();
    assert!(child.wait().unwrap().success(), "{line}");
    child.id()
}

#[track_caller]
fn a_witness_can_be_had() -> bool {
    let works = Witness::open().is_ok();
    skip_unless(&[Need::Kernel("names for socket filters (6.17)", works)])
}

#[test]
fn whatever_a_program_takes_away_it_is_named_for_though_it_is_gone() {
    if !a_witness_can_be_had() {
        return;
    }
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        overlay_with_a_peer(&mut rtnl);
        let mut watch = Watch::open(&Filter::default()).unwrap();
        let witness = Witness::open().unwrap();
        for Deed {
            program,
            line,
            fits,
        } in DEEDS
        {
            let pid = done_by(line);
            let mut events: Vec<Event> = Vec::new();
            watch.read(&mut events).unwrap();
            let told: Vec<_> = events.iter().filter(|event| fits(&event.news)).collect();
            assert!(!told.is_empty(), "{line}: {events:?}");
            for event in told {
                let owner = witness
                    .saw(event)
                    .unwrap_or_else(|| panic!("{line}: nobody"));
                assert_eq!((owner.pid, &*owner.program), (pid, program), "{line}");
            }
        }
    });
}

#[test]
fn what_we_do_ourselves_is_not_noted() {
    if !a_witness_can_be_had() {
        return;
    }
    in_fresh_namespace(|| {
        let mut watch = Watch::open(&Filter::default()).unwrap();
        let witness = Witness::open().unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        overlay_with_a_peer(&mut rtnl);
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        let links = events
            .iter()
            .filter(|event| matches!(event.news, News::Link { .. }));
        for event in links {
            assert_eq!(witness.saw(event), None);
        }
    });
}
