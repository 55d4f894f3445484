//! Others change the ruleset at the worst moment.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use weft_net::nft::{
    DataType, Element, Family, NftSocket, Object, SetSpec, Table, Transaction, Value, Verdict,
};

use crate::common::{
    HOSTPORTS, hostports_skeleton, hostports4, in_fresh_namespace, mapping, run, target,
};

const OURS: &str = "n1/ours/eth0";
const THEIRS: &str = "n1/theirs/eth0";

fn skeleton_with(nft: &mut NftSocket, owners: &[(u16, &str)]) {
    let mut transaction = Transaction::new();
    hostports_skeleton(&mut transaction);
    for (port, owner) in owners {
        let (key, value) = (mapping(*port), target(*port));
        transaction.add_elements(
            hostports4(),
            &[Element::new(&key).value(&value).comment(owner)],
        );
    }
    nft.commit(transaction).unwrap();
}

/// Deletes an element and puts there what a rival would.
fn take_over(nft: &mut NftSocket, port: u16) {
    let (key, value) = (mapping(port), target(port + 1));
    let mut transaction = Transaction::new();
    transaction.delete_elements(hostports4(), &[Element::new(&key)]);
    transaction.create_elements(
        hostports4(),
        &[Element::new(&key).value(&value).comment(THEIRS)],
    );
    nft.commit(transaction).unwrap();
}

fn owners(nft: &mut NftSocket) -> Vec<String> {
    let mut owners: Vec<_> = nft
        .elements(hostports4())
        .unwrap()
        .iter()
        .map(|e| e.comment().to_owned())
        .collect();
    owners.sort();
    owners
}

#[test]
fn a_transaction_at_an_outdated_generation_is_refused_as_a_whole() {
    in_fresh_namespace(|mut nft| {
        let generation = nft.find(&[Object::Table(HOSTPORTS)]).unwrap().generation;
        run("nft", "add table inet rival");
        let mut transaction = Transaction::at(generation);
        hostports_skeleton(&mut transaction);
        let error = nft.commit(transaction).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::RESTART));
        assert!(!run("nft", "list tables").contains("weft_hostports"));

        let mut transaction = Transaction::at(nft.generation().unwrap());
        hostports_skeleton(&mut transaction);
        nft.commit(transaction).unwrap();
    });
}

#[test]
fn a_table_made_by_two_at_once_is_made_once() {
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[]);
        let mut transaction = Transaction::new();
        hostports_skeleton(&mut transaction);
        assert!(nft.commit(transaction).unwrap_err().exists());
        assert_eq!(nft.rules(HOSTPORTS.chain("hostports")).unwrap().len(), 2);
    });
}

#[test]
fn a_foreign_element_is_never_deleted() {
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[(1, OURS), (2, THEIRS), (3, OURS)]);
        let keys = [mapping(1), mapping(2), mapping(3), mapping(4), mapping(1)];
        let elements: Vec<_> = keys
            .iter()
            .map(|key| (hostports4(), key.as_slice()))
            .collect();
        let deleted = nft
            .delete_owned(&elements, &mut |_, element| element.comment() == OURS)
            .unwrap();
        assert_eq!(deleted, 2);
        assert_eq!(owners(&mut nft), [THEIRS]);
    });
}

#[test]
fn an_element_taken_over_between_look_and_deletion_survives() {
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[(1, OURS), (2, OURS)]);
        let mut rival = NftSocket::open().unwrap();
        let keys = [mapping(1), mapping(2)];
        let elements: Vec<_> = keys
            .iter()
            .map(|key| (hostports4(), key.as_slice()))
            .collect();
        let mut looks = 0;
        let deleted = nft
            .delete_owned(&elements, &mut |_, element| {
                looks += 1;
                if looks == 1 {
                    take_over(&mut rival, 1);
                }
                element.comment() == OURS
            })
            .unwrap();
        assert_eq!((deleted, looks), (1, 4));
        assert_eq!(owners(&mut nft), [THEIRS]);
    });
}

#[test]
fn an_element_that_vanishes_between_look_and_deletion_is_no_error() {
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[(1, OURS)]);
        let mut rival = NftSocket::open().unwrap();
        let key = mapping(1);
        let deleted = nft
            .delete_owned(&[(hostports4(), &key)], &mut |_, _| {
                let mut transaction = Transaction::new();
                transaction.flush_set(hostports4());
                rival.commit(transaction).unwrap();
                true
            })
            .unwrap();
        assert_eq!(deleted, 0);
    });
}

/// With a verdict in it, which must be told again for the kernel to take the new lifetime.
#[test]
fn what_is_retired_goes_by_itself_and_what_is_not_ours_stays() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Inet, "t");
        let (map, chain) = (table.set("m"), table.chain("c"));
        let (mine, theirs) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut transaction = Transaction::new();
        transaction.add_table(table, "");
        transaction.add_chain(chain, None);
        transaction.add_set(map, &SetSpec::verdict_map(&[DataType::IPV4]).mortal());
        for (key, comment) in [(&mine, OURS), (&theirs, THEIRS)] {
            let element = Element::new(key)
                .verdict(Verdict::Goto("c"))
                .comment(comment);
            transaction.create_elements(map, &[element]);
        }
        nft.commit(transaction).unwrap();

        let elements = [(map, mine.as_slice()), (map, theirs.as_slice())];
        let retired = nft.retire_owned(&elements, &mut |_, element| element.comment() == OURS);
        assert_eq!(retired.unwrap(), 1);
        nft.wait_for_retired();
        let left = nft.elements(map).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].comment(), THEIRS);
        assert!(!left[0].is_expiring());

        // The next owner of the key finds it free.
        let mut transaction = Transaction::new();
        let element = Element::new(&mine)
            .verdict(Verdict::Goto("c"))
            .comment(OURS);
        transaction.create_elements(map, &[element]);
        nft.commit(transaction).unwrap();
    });
}

#[test]
fn a_ruleset_that_never_rests_ends_in_an_error_not_in_a_loop() {
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[(1, OURS)]);
        let mut rival = NftSocket::open().unwrap();
        let key = mapping(1);
        let error = nft
            .delete_owned(&[(hostports4(), &key)], &mut |_, _| {
                take_over(&mut rival, 1);
                true
            })
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::RESTART));
    });
}

#[test]
fn sixteen_threads_add_and_delete_their_own_at_once() {
    const THREADS: u16 = 16;
    const ROUNDS: u16 = 20;
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[]);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let mut nft = NftSocket::open().unwrap();
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let (key, value) = (mapping(1000 * thread + round), target(80));
                        let owner = format!("n1/{thread}/eth0");
                        let element = Element::new(&key).value(&value).comment(&owner);
                        let mut transaction = Transaction::new();
                        transaction.create_elements(hostports4(), &[element]);
                        nft.commit(transaction).unwrap();
                        let deleted = nft
                            .delete_owned(&[(hostports4(), &key)], &mut |_, element| {
                                element.comment() == owner
                            })
                            .unwrap();
                        assert_eq!(deleted, 1);
                    }
                });
            }
        });
        assert!(owners(&mut nft).is_empty());
    });
}

#[test]
fn a_large_map_is_listed_whole_while_others_change_the_ruleset() {
    const COUNT: u16 = 5000;
    in_fresh_namespace(|mut nft| {
        skeleton_with(&mut nft, &[]);
        let keys: Vec<_> = (0..COUNT).map(mapping).collect();
        let value = target(80);
        let elements: Vec<_> = keys
            .iter()
            .map(|key| Element::new(key).value(&value))
            .collect();
        let mut transaction = Transaction::new();
        transaction.add_elements(hostports4(), &elements);
        nft.commit(transaction).unwrap();

        let rests = AtomicBool::new(false);
        let mut rival = NftSocket::open().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                come_and_go(&mut rival, COUNT, 30);
                rests.store(true, Ordering::Release);
            });
            let mut last = false;
            while !last {
                last = rests.load(Ordering::Acquire);
                let found = nft.elements(hostports4()).unwrap();
                let stable = found
                    .iter()
                    .filter(|e| e.value() == Value::Bytes(&value))
                    .count();
                assert_eq!(stable, usize::from(COUNT));
            }
        });
    });
}

/// Five hundred elements from `port` on, put in and taken out again.
fn come_and_go(rival: &mut NftSocket, port: u16, times: usize) {
    let keys: Vec<_> = (port..port + 500).map(mapping).collect();
    let value = target(81);
    let elements: Vec<_> = keys
        .iter()
        .map(|key| Element::new(key).value(&value))
        .collect();
    for _ in 0..times {
        let mut transaction = Transaction::new();
        transaction.create_elements(hostports4(), &elements);
        rival.commit(transaction).unwrap();
        let mut transaction = Transaction::new();
        transaction.delete_elements(hostports4(), &elements);
        rival.commit(transaction).unwrap();
    }
}
