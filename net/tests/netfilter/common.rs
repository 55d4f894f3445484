use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use weft_net::nft::{
    Base, ChainKind, DataType, Family, Hook, NftSocket, Policy, Set, SetSpec, Table, Transaction,
    expr, priority,
};
use weft_net::nft::{Expr, Selector};

/// Runs the test on a thread in a fresh network namespace, which ends with it.
pub(crate) fn in_fresh_namespace(test: impl FnOnce(NftSocket) + Send + 'static) {
    let outcome = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a fresh network namespace needs root");
        test(NftSocket::open().unwrap());
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// What a program prints, run in the calling thread's namespace.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A ruleset as nft reads it.
pub(crate) fn nft(ruleset: &str) {
    let output = Command::new("nft").arg(ruleset).output().unwrap();
    assert!(output.status.success(), "{ruleset}: {output:?}");
}

/// Compares line by line, without indentation.
pub(crate) fn assert_listed(listed: &str, expected: &str) {
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    };
    assert_eq!(lines(listed), lines(expected), "\n{listed}");
}

pub(crate) const HOSTPORTS: Table<'_> = Table::new(Family::Inet, "weft_hostports");

pub(crate) fn hostports4() -> Set<'static> {
    HOSTPORTS.set("hostports4")
}

/// The table a port mapping lives in: a mapping is an element, nothing else.
pub(crate) fn hostports_skeleton(transaction: &mut Transaction) {
    const KEY4: [DataType; 3] = [DataType::PROTO, DataType::IPV4, DataType::SERVICE];
    const KEY6: [DataType; 3] = [DataType::PROTO, DataType::IPV6, DataType::SERVICE];
    transaction.create_table(HOSTPORTS, "weft: host ports");
    let to4 = SetSpec::map(&KEY4, &[DataType::IPV4, DataType::SERVICE]);
    transaction.add_set(hostports4(), &to4.comment("owner in each comment"));
    let to6 = SetSpec::map(&KEY6, &[DataType::IPV6, DataType::SERVICE]);
    transaction.add_set(HOSTPORTS.set("hostports6"), &to6);

    let hostports = HOSTPORTS.chain("hostports");
    transaction.add_chain(hostports, None);
    transaction.add_rule(hostports, &mapped(false, "hostports4"), "");
    transaction.add_rule(hostports, &mapped(true, "hostports6"), "");
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let chain = HOSTPORTS.chain(name);
        let kind = ChainKind::Nat;
        let base = Base {
            kind,
            hook,
            priority: priority::DSTNAT,
            policy: Policy::Accept,
        };
        transaction.add_chain(chain, Some(base));
        transaction.add_rule(
            chain,
            &[expr::daddr_is_local(), expr::jump("hostports")],
            "",
        );
    }
}

fn mapped(is_ipv6: bool, map: &str) -> [Expr; 3] {
    let family = if is_ipv6 { expr::ipv6() } else { expr::ipv4() };
    let key = [Selector::L4PROTO, Selector::daddr(is_ipv6), Selector::DPORT];
    [
        family,
        expr::map(&key, map),
        expr::dnat_to_mapped(is_ipv6, true),
    ]
}

/// The key of a mapping of `10.0.0.1`.
pub(crate) fn mapping(port: u16) -> Vec<u8> {
    weft_net::nft::concat(&[&[6], &[10, 0, 0, 1], &port.to_be_bytes()])
}

/// Where a mapping leads: `10.1.0.5`.
pub(crate) fn target(port: u16) -> Vec<u8> {
    weft_net::nft::concat(&[&[10, 1, 0, 5], &port.to_be_bytes()])
}
