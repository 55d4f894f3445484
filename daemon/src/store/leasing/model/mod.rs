//! Lease races: real state machines over a simulated store, with commits, answers, news, restarts
//! and an operator's hand in any order, against a ledger that knows who may hold what.

mod cluster;
mod world;

use proptest::prelude::*;

use cluster::Cluster;

/// What may happen next. Numbers pick a node or a subnet, whichever it needs.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The node does its next step: lists, or sends a write.
    Step(usize),
    /// The write that it sent arrives at the store.
    Arrive(usize),
    /// The answer comes back.
    Answer(usize),
    /// The answer is lost; a write that had not arrived may arrive later, or never.
    LoseAnswer(usize),
    /// A write that its sender has given up arrives.
    ArriveLate,
    /// The node hears of that many changes, in order.
    Hear(usize, usize),
    /// Its connection breaks.
    Miss(usize),
    Restart(usize),
    /// The machine is installed anew: another machine-id, with or without its subnet file.
    Reinstall(usize, bool),
    /// The machine gets another name.
    Rename(usize),
    /// It gets an address that nobody has at the time.
    Move(usize, u8),
    /// A second daemon with the same name writes the node's key, or it is spoilt.
    Overwrite(usize, bool),
    /// An operator deletes a key.
    Revoke(usize),
    /// An operator makes a node's lease a reservation.
    MakeLast(usize),
    /// An operator reserves a subnet for a node by its address, or for nobody.
    Reserve(usize, usize, bool),
    /// A flanneld takes a subnet.
    Foreign(usize, u8),
    Minutes(u16),
}

fn turn() -> impl Strategy<Value = Turn> {
    let node = 0usize..NODES;
    let subnet = 0usize..SUBNETS;
    prop_oneof![
        20 => node.clone().prop_map(Turn::Step),
        12 => node.clone().prop_map(Turn::Arrive),
        12 => node.clone().prop_map(Turn::Answer),
        4 => node.clone().prop_map(Turn::LoseAnswer),
        3 => Just(Turn::ArriveLate),
        10 => (node.clone(), 1usize..5).prop_map(|(node, count)| Turn::Hear(node, count)),
        2 => node.clone().prop_map(Turn::Miss),
        3 => node.clone().prop_map(Turn::Restart),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, keep)| Turn::Reinstall(node, keep)),
        1 => node.clone().prop_map(Turn::Rename),
        2 => (node.clone(), 0u8..ADDRESSES).prop_map(|(node, ip)| Turn::Move(node, ip)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, spoil)| Turn::Overwrite(node, spoil)),
        3 => subnet.clone().prop_map(Turn::Revoke),
        1 => node.clone().prop_map(Turn::MakeLast),
        1 => (node, subnet.clone(), any::<bool>()).prop_map(|(node, subnet, named)| Turn::Reserve(node, subnet, named)),
        2 => (subnet, 0u8..ADDRESSES).prop_map(|(subnet, ip)| Turn::Foreign(subnet, ip)),
        4 => (1u16..1600).prop_map(Turn::Minutes),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_nobody_shares_a_subnet_and_nobody_is_stuck(
        turns in proptest::collection::vec(turn(), 0..150), seed: u64,
    ) {
        let mut cluster = Cluster::new(seed);
        for turn in turns {
            cluster.play(turn);
        }
        cluster.settle_down();
        cluster.judge_the_end();
    }
}

#[test]
fn in_a_quiet_cluster_everybody_has_a_subnet() {
    let mut cluster = Cluster::new(7);
    cluster.settle_down();
    cluster.judge_the_end();
    assert_eq!(cluster.holders(), NODES);
}

const NODES: usize = 4;
/// One to spare.
const SUBNETS: usize = 5;
const ADDRESSES: u8 = 7;
