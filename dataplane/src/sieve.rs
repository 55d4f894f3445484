//! A filter for the kernel: datagrams of strangers are dropped before they take a place in a
//! socket's queue, where a flood of them would leave none for peers. It may let a stranger
//! through, whom the engine knows better, and never keeps a peer out.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// One instruction of the kernel's packet filters (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

/// Passes what comes from one of these addresses, as seen by a socket of one family.
pub(crate) fn program(v6: bool, senders: impl IntoIterator<Item = IpAddr>) -> Vec<Instruction> {
    let mut columns: Vec<Vec<u32>> = vec![Vec::new(); if v6 { 4 } else { 1 }];
    for sender in senders {
        match sender.to_canonical() {
            sender if sender.is_ipv6() == v6 => {
                for (column, word) in columns.iter_mut().zip(words(sender)) {
                    column.push(word);
                }
            }
            _ => (),
        }
    }
    let source = NETWORK_HEADER + if v6 { 8 } else { 12 };
    let mut program = Vec::new();
    for (column, at) in columns.into_iter().zip((source..).step_by(4)) {
        program.push(plain(LOAD_WORD, at));
        check(&ranges(column), &mut program);
    }
    program.push(plain(RETURN, WHOLE));
    program
}

/// The same, and of a peer's datagrams only those whose first packet goes to one of our own
/// subnets. This is for a flood under a peer's address: what is dropped here is not looked at, and
/// so not counted by its reason.
pub(crate) fn strict_program(
    v6: bool,
    senders: impl IntoIterator<Item = IpAddr>,
    own: &[IpNetwork],
) -> Vec<Instruction> {
    let mut program = program(v6, senders);
    if own.len() > OWN {
        return program;
    }
    program.pop();
    let (mut to_v4, mut to_v6) = (Vec::new(), Vec::new());
    for subnet in own {
        let (words, masks) = (words(subnet.network()), words(subnet.mask()));
        let (to, at) = match subnet {
            IpNetwork::V4(_) => (&mut to_v4, PAYLOAD + 16),
            IpNetwork::V6(_) => (&mut to_v6, PAYLOAD + 24),
        };
        lies_in(&words, &masks, at, to);
    }
    to_v4.push(plain(RETURN, NOTHING));
    to_v6.push(plain(RETURN, NOTHING));
    program.push(plain(LOAD_BYTE, PAYLOAD));
    program.push(plain(SHIFT_RIGHT, 4));
    program.push(jump_unless_equal(4, to_v4.len()));
    program.append(&mut to_v4);
    program.push(jump_unless_equal(6, to_v6.len() - 1));
    program.append(&mut to_v6);
    program
}

/// More of our own are not looked for.
const OWN: usize = 8;
/// A socket's data begin with the UDP header.
const PAYLOAD: u32 = 8;

/// Passes the datagram if the address at `at` lies in the subnet, and goes on behind otherwise.
fn lies_in(subnet: &[u32], masks: &[u32], at: u32, program: &mut Vec<Instruction>) {
    for (i, ((word, mask), at)) in subnet.iter().zip(masks).zip((at..).step_by(4)).enumerate() {
        let left = (subnet.len() - 1 - i) * 3 + 1;
        program.push(plain(LOAD_WORD, at));
        program.push(plain(AND, *mask));
        program.push(jump_unless_equal(*word, left));
    }
    program.push(plain(RETURN, WHOLE));
}

fn words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => {
            let words = address.octets();
            let words = words.as_chunks::<4>().0.iter();
            words.map(|word| u32::from_be_bytes(*word)).collect()
        }
    }
}

fn jump_unless_equal(value: u32, past: usize) -> Instruction {
    Instruction {
        code: JUMP_IF_EQUAL,
        jump_true: 0,
        jump_false: u8::try_from(past).unwrap_or(u8::MAX),
        value,
    }
}

const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP_IF_EQUAL: u16 = 0x15;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_UNLESS_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
/// SKF_NET_OFF: counted from the IP header, wherever the socket's own data begin.
const NETWORK_HEADER: u32 = 0xfff0_0000;
const NOTHING: u32 = 0;
const WHOLE: u32 = u32::MAX;
/// As many as a jump of 255 instructions gets past.
const RANGES: usize = 100;

fn plain(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        value,
    }
}

/// Goes on behind these instructions if the loaded word lies in one of the ranges, which are
/// sorted; drops the datagram otherwise.
fn check(ranges: &[(u32, u32)], program: &mut Vec<Instruction>) {
    for (at, (low, high)) in ranges.iter().enumerate() {
        let left = u8::try_from((ranges.len() - at) * 2).unwrap_or(u8::MAX);
        program.push(Instruction {
            code: JUMP_UNLESS_LESS,
            jump_true: 0,
            jump_false: left - 1,
            value: *low,
        });
        program.push(Instruction {
            code: JUMP_IF_GREATER,
            jump_true: 0,
            jump_false: left - 1,
            value: *high,
        });
    }
    program.push(plain(RETURN, NOTHING));
}

/// Ranges that hold all the numbers, and as little else as so few can.
fn ranges(mut numbers: Vec<u32>) -> Vec<(u32, u32)> {
    numbers.sort_unstable();
    numbers.dedup();
    let gap = |pair: &[u32]| pair[1] - pair[0];
    let mut gaps: Vec<u32> = numbers.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    // Neighbours need no gap between them; of others the widest are kept.
    let narrow = gaps.get(RANGES - 1).copied().unwrap_or(0).max(1);
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, high)) if number - *high <= narrow => *high = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn passes(program: &[Instruction], sender: IpAddr) -> bool {
        runs(program, sender, &[])
    }

    /// What the kernel would do with a datagram from there.
    fn runs(program: &[Instruction], sender: IpAddr, payload: &[u8]) -> bool {
        let (source, bytes) = match sender {
            IpAddr::V4(sender) => (12, sender.octets().to_vec()),
            IpAddr::V6(sender) => (8, sender.octets().to_vec()),
        };
        let load = |value: u32, length: usize| {
            let (bytes, from) = match value.checked_sub(NETWORK_HEADER) {
                Some(at) => (&bytes[..], at - source),
                None => (payload, value - PAYLOAD),
            };
            let bytes = bytes.get(from as usize..from as usize + length)?;
            Some(
                bytes
                    .iter()
                    .fold(0, |word, byte| word << 8 | u32::from(*byte)),
            )
        };
        let (mut at, mut word) = (0, 0_u32);
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                value,
            } = program[at];
            let jump = |taken| usize::from(if taken { jump_true } else { jump_false });
            at += 1;
            match code {
                LOAD_WORD | LOAD_BYTE => {
                    let length = if code == LOAD_WORD { 4 } else { 1 };
                    let Some(loaded) = load(value, length) else {
                        return false;
                    };
                    word = loaded;
                }
                AND => word &= value,
                SHIFT_RIGHT => word >>= value,
                JUMP_IF_EQUAL => at += jump(word == value),
                JUMP_IF_GREATER => at += jump(word > value),
                JUMP_UNLESS_LESS => at += jump(word >= value),
                RETURN => return value != NOTHING,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    fn v4(bits: u32) -> IpAddr {
        Ipv4Addr::from_bits(bits).into()
    }

    #[test]
    fn a_small_cluster_is_let_through_and_nobody_else() {
        let peers = [1, 2, 3, 9, 200].map(|last| v4(0xc000_0200 + last));
        let program = program(false, peers);
        for last in 0..=255 {
            let sender = v4(0xc000_0200 + last);
            assert_eq!(
                passes(&program, sender),
                peers.contains(&sender),
                "{sender}"
            );
        }
        assert!(!passes(&program, v4(0)) && !passes(&program, v4(u32::MAX)));
    }

    #[test]
    fn without_peers_nobody_is_let_through() {
        assert!(!passes(&program(false, []), v4(0)));
        assert!(!passes(
            &program(true, [v4(1)]),
            Ipv6Addr::UNSPECIFIED.into()
        ));
    }

    #[test]
    fn the_strict_one_looks_at_the_inner_destination() {
        let own = [
            "10.1.7.0/24",
            "10.2.0.0/16",
            "fd00:0:0:7::/64",
            "fd00:8::/33",
        ];
        let own = own.map(|subnet| subnet.parse().unwrap());
        let program = strict_program(false, [v4(1)], &own);
        let goes = |destination: &str| {
            let mut packet = [0; 40];
            match destination.parse().unwrap() {
                IpAddr::V4(to) => {
                    packet[0] = 0x45;
                    packet[16..20].copy_from_slice(&to.octets());
                }
                IpAddr::V6(to) => {
                    packet[0] = 0x60;
                    packet[24..40].copy_from_slice(&to.octets());
                }
            }
            assert!(!runs(&program, v4(2), &packet));
            runs(&program, v4(1), &packet)
        };
        for destination in ["10.1.7.9", "10.2.255.1", "fd00:0:0:7::9", "fd00:8:7fff::1"] {
            assert!(goes(destination), "{destination}");
        }
        for destination in ["10.1.8.9", "10.3.0.0", "fd00:0:0:8::9", "fd00:8:8000::1"] {
            assert!(!goes(destination), "{destination}");
        }
        for garbage in [&[][..], &[0x45; 15], &[0x60; 39], &[0x10; 100]] {
            assert!(!runs(&program, v4(1), garbage));
        }
    }

    proptest! {
        #[test]
        fn no_peer_is_kept_out_and_no_filter_too_long(
            peers in prop::collection::vec(any::<u32>(), 0..1000),
            wide in prop::collection::vec(any::<u128>(), 0..300),
        ) {
            let wide = wide.into_iter().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
            let both: Vec<IpAddr> = peers.into_iter().map(v4).chain(wide).collect();
            for v6 in [false, true] {
                let program = program(v6, both.iter().copied());
                prop_assert!(program.len() <= 4096);
                for sender in both.iter().filter(|sender| sender.is_ipv6() == v6) {
                    prop_assert!(passes(&program, *sender));
                }
            }
        }

        #[test]
        fn as_few_as_fit_are_exact(
            peers in prop::collection::btree_set(0_u32..1000, 0..RANGES), near in 0_u32..1000,
        ) {
            let program = program(false, peers.iter().copied().map(v4));
            let known: &BTreeSet<u32> = &peers;
            prop_assert_eq!(passes(&program, v4(near)), known.contains(&near));
        }
    }
}
