//! Watching others change the ruleset, and not ourselves.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_net::nft::{Element, Family, Table, Transaction};
use weft_net::watch::{Filter, RulesetEvent, RulesetWatch};

use crate::common::{
    HOSTPORTS, hostports_skeleton, hostports4, in_fresh_namespace, mapping, nft as nft_program,
    target,
};

const OTHER: Table<'_> = Table::new(Family::Ip, "other");

fn is_readable(watch: &impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[test]
fn own_commits_wake_nobody_and_anothers_tells_who_and_which_tables() {
    in_fresh_namespace(|mut nft| {
        let filter = Filter {
            own_ports: vec![nft.port().unwrap()],
            ..Filter::default()
        };
        let mut watch = RulesetWatch::open(&filter, &[OTHER, HOSTPORTS]).unwrap();
        let mut transaction = Transaction::new();
        hostports_skeleton(&mut transaction);
        nft.commit(transaction).unwrap();
        for port in 1..=1000 {
            let key = mapping(port);
            let value = target(port);
            let mut transaction = Transaction::new();
            transaction.add_elements(hostports4(), &[Element::new(&key).value(&value)]);
            nft.commit(transaction).unwrap();
        }
        assert!(!is_readable(&watch));

        let mut child = Command::new("nft")
            .args(["flush", "ruleset"])
            .spawn()
            .unwrap();
        assert!(child.wait().unwrap().success());
        nft_program("add table ip other; add table ip third");
        nft_program("add table ip third");
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        assert_eq!(told(&events), ["nft [1]", "nft [0]"]);
        let RulesetEvent::Commit { generation, .. } = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!(generation.pid, child.id());
        assert_eq!(generation.id + 1, nft.generation().unwrap());
    });
}

#[test]
fn an_element_of_a_watched_table_is_a_change_of_it() {
    in_fresh_namespace(|mut nft| {
        let mut transaction = Transaction::new();
        hostports_skeleton(&mut transaction);
        nft.commit(transaction).unwrap();
        let mut watch = RulesetWatch::open(&Filter::default(), &[HOSTPORTS]).unwrap();
        nft_program(
            "add element inet weft_hostports hostports4 { tcp . 10.0.0.1 . 80 : 10.1.0.5 . 80 }",
        );
        nft_program("add table inet third");
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        assert_eq!(told(&events), ["nft [0]", "nft []"]);
    });
}

#[test]
fn commits_that_overflow_are_an_event_and_not_an_error() {
    in_fresh_namespace(|mut nft| {
        let mut watch = RulesetWatch::open(&Filter::default(), &[HOSTPORTS]).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&watch, 4096).unwrap();
        for _ in 0..20 {
            let mut transaction = Transaction::new();
            hostports_skeleton(&mut transaction);
            nft.commit(transaction).unwrap();
            let mut transaction = Transaction::new();
            transaction.delete_table(HOSTPORTS);
            nft.commit(transaction).unwrap();
        }
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        assert!(events.contains(&RulesetEvent::Overrun), "{events:?}");
    });
}

fn told(events: &[RulesetEvent]) -> Vec<String> {
    let text = |event: &RulesetEvent| match event {
        RulesetEvent::Commit {
            generation,
            touched,
        } => format!("{} {touched:?}", generation.program),
        RulesetEvent::Overrun => "overrun".to_owned(),
    };
    events.iter().map(text).collect()
}
