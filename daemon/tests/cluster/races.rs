//! Many daemons at one moment.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_netns::{in_world, wait_until};

use crate::harness::{Cluster, Node};

/// Of a quiet machine 5 s are asked; this one may be building.
const GENEROUS: Duration = Duration::from_secs(120);

/// With nothing to program but their own rules: the race for the subnets alone.
#[test]
fn two_hundred_daemons_share_exactly_two_hundred_subnets() {
    two_hundred("alloc");
}

/// Each of them programs each other one, as they come.
#[test]
#[ignore = "for make soak: 40,000 peers, a minute or two where nothing is optimised"]
fn soak_two_hundred_daemons_share_two_hundred_subnets_and_program_each_other() {
    two_hundred("vxlan");
}

fn two_hundred(backend: &str) {
    in_world(|world| {
        let conf = format!(
            r#"{{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.200.0","Backend":{{"Type":"{backend}"}}}}"#
        );
        let cluster = Cluster::new(world, &conf);
        let nodes: Vec<_> = (1..=200).map(|number| cluster.node(number)).collect();
        let begun = Instant::now();
        nodes.iter().for_each(Node::start);
        let started = begun.elapsed();
        wait_until("200 subnets are leased", GENEROUS, || {
            cluster.store.leases().len() == nodes.len()
        });
        let leased = begun.elapsed();
        wait_until("all are ready", GENEROUS, || {
            nodes.iter().all(|node| node.subnet_file().exists())
        });
        let ready = begun.elapsed();
        println!("200 daemons: started in {started:?}, leased in {leased:?}, ready in {ready:?}");
        let subnets: BTreeSet<_> = nodes.iter().map(Node::subnet).collect();
        assert_eq!(subnets.len(), nodes.len());
        for node in &nodes {
            assert!(node.lives(), "{} has ended:\n{}", node.name, node.log());
        }
    });
}
