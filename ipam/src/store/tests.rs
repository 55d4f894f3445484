//! Whatever dies when, and whoever else writes: the directory stays right, and the index is either
//! right or not believed.

use std::{collections::BTreeMap, fs, net::IpAddr, os::unix::fs::MetadataExt};

use proptest::prelude::*;
use serde_json::json;
use weft_cni::Plugin;

use super::*;
use crate::{
    HostLocal,
    boot::now,
    mortal::living_for,
    testing::{Scratch, boot, boot_at},
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Add {
        id: u8,
        changes: u64,
    },
    Ask {
        id: u8,
        host: u8,
        changes: u64,
    },
    Del {
        id: u8,
        changes: u64,
    },
    Gc {
        living: u8,
        changes: u64,
    },
    /// What the Go plugin does, or a person.
    Write {
        id: u8,
        host: u8,
    },
    Empty {
        host: u8,
    },
    Remove {
        host: u8,
    },
    Reboot,
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..12u8;
    let host = || 0..16u8;
    let changes = || prop_oneof![2 => Just(u64::MAX), 3 => 0..24u64];
    prop_oneof![
        8 => (id(), changes()).prop_map(|(id, changes)| Step::Add { id, changes }),
        2 => (id(), host(), changes()).prop_map(|(id, host, changes)| Step::Ask { id, host, changes }),
        6 => (id(), changes()).prop_map(|(id, changes)| Step::Del { id, changes }),
        1 => (id(), changes()).prop_map(|(living, changes)| Step::Gc { living, changes }),
        2 => (id(), host()).prop_map(|(id, host)| Step::Write { id, host }),
        1 => host().prop_map(|host| Step::Empty { host }),
        2 => host().prop_map(|host| Step::Remove { host }),
        1 => Just(Step::Reboot),
        1 => Just(Step::LoseIndex),
    ]
}

/// Does the step in the boot with this number; says whether ours lived through it.
fn take(scratch: &Scratch, step: Step, boot_number: u8) -> bool {
    let world = boot(boot_number);
    let ranges = json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/28"}]]}});
    let call = |id: u8| scratch.call(&format!("c{id}"), ranges.clone());
    let name = |host: u8| format!("10.0.0.{host}");
    let (done, left) = match step {
        Step::Add { id, changes } => {
            let (added, left) = living_for(changes, || crate::plugin::add(&call(id), &world));
            (added.map(drop), left)
        }
        Step::Ask { id, host, changes } => {
            let mut call = call(id);
            call.env.args = format!("IP={}", name(host));
            let (added, left) = living_for(changes, || crate::plugin::add(&call, &world));
            (added.map(drop), left)
        }
        Step::Del { id, changes } => living_for(changes, || crate::plugin::del(&call(id), &world)),
        Step::Gc { living, changes } => {
            let list = json!([{"containerID": format!("c{living}"), "ifname": "eth0"}]);
            let call = scratch.call("", json!({"cni.dev/valid-attachments": list}));
            living_for(changes, || crate::plugin::gc(&call, &world))
        }
        Step::Write { id, host } => {
            // Under the lock, as the Go plugin has it: what is there stays.
            if !scratch.network().join(name(host)).exists() {
                scratch.write(&name(host), &format!("c{id}\r\neth0"));
            }
            return true;
        }
        Step::Empty { host } => {
            if !scratch.network().join(name(host)).exists() {
                scratch.write(&name(host), "");
            }
            return true;
        }
        Step::Remove { host } => {
            let _ = fs::remove_file(scratch.network().join(name(host)));
            return true;
        }
        Step::LoseIndex => {
            let _ = fs::remove_dir_all(scratch.path().join(".weft"));
            return true;
        }
        Step::Reboot => return true,
    };
    if let Err(error) = done {
        assert!(left == 0 || error.code.number() != 5, "{step:?}: {error}");
    }
    left > 0
}

/// Whether the index that lies there, if it is one that would be believed, tells the truth.
fn audit(scratch: &Scratch, boot_number: u8) {
    let place = scratch.place();
    let world = boot(boot_number);
    let (Ok(Some(directory)), Some(index)) = (
        Directory::open(&place.reservations),
        Index::open(&place.index),
    ) else {
        return;
    };
    if index.boot() != world.boot.id || !index.is_sealed_for(directory.identity().unwrap()) {
        return;
    }
    let listed = |index: &Index| {
        let mut all = BTreeMap::new();
        index
            .each(|entry| {
                all.insert(entry.address, entry);
                Ok(())
            })
            .unwrap();
        all
    };
    let truth = survey(&directory, None, Some(&index), &world.boot).unwrap();
    let (said, true_ones) = (listed(&index), listed(&truth));
    assert_eq!(said, true_ones);
    for address in said.keys() {
        let block = Block::of(*address);
        assert_eq!(index.taken(block).unwrap(), truth.taken(block).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn whoever_dies_and_whoever_writes_the_index_is_right_or_not_believed(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let scratch = Scratch::new();
        let mut boot_number = 1;
        for step in steps {
            if matches!(step, Step::Reboot) {
                boot_number += 1;
            }
            take(&scratch, step, boot_number);
            audit(&scratch, boot_number);
            for (address, content) in scratch.reservations() {
                let whole = content.is_empty() || matches!(owner::holder(content.as_bytes()), Holder::Attachment { .. });
                prop_assert!(whole, "{address} says {content:?}");
            }
        }
        // And in the end everything can be had and given back.
        for id in 0..12 {
            take(&scratch, Step::Del { id, changes: u64::MAX }, boot_number);
        }
        let left = scratch.reservations();
        prop_assert!(left.iter().all(|(_, content)| content.is_empty()), "{left:?}");
        for id in 0..12 {
            let call = scratch.call(&format!("c{id}"), json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/28"}]]}}));
            prop_assert!(crate::plugin::add(&call, &boot(boot_number)).is_ok());
        }
    }

    #[test]
    fn an_add_that_dies_anywhere_is_undone_by_a_del(before in 0..5u8, changes in 0..30u64) {
        let scratch = Scratch::new();
        for id in 0..before {
            take(&scratch, Step::Add { id, changes: u64::MAX }, 1);
        }
        let was = scratch.reservations();
        take(&scratch, Step::Add { id: 9, changes }, 1);
        take(&scratch, Step::Del { id: 9, changes: u64::MAX }, 1);
        prop_assert_eq!(scratch.reservations(), was);
        let again = take(&scratch, Step::Add { id: 9, changes: u64::MAX }, 1);
        prop_assert!(again);
        prop_assert_eq!(scratch.reservations().len(), usize::from(before) + 1);
    }
}

fn open(scratch: &Scratch, world: &World) -> Store {
    Store::open(&scratch.place(), world, Purpose::Reserve)
        .unwrap()
        .unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_index_holds_until_somebody_else_writes_the_directory() {
    let scratch = Scratch::new();
    let owner = Owner::attachment("c1", "eth0");
    let is_fresh = || {
        let store = open(&scratch, &boot(1));
        let fresh = store.fresh;
        store.close();
        fresh
    };
    assert!(is_fresh());
    let mut store = open(&scratch, &boot(1));
    store.reserve(ip("10.0.0.2"), &owner).unwrap();
    store.note_last_reserved(0, ip("10.0.0.2"));
    store.close();
    assert!(!is_fresh(), "our own change is known");
    scratch.write("10.0.0.3", "g1\r\neth0");
    assert!(is_fresh(), "a file came");
    assert!(!is_fresh());
    fs::remove_file(scratch.network().join("10.0.0.2")).unwrap();
    assert!(is_fresh(), "a file went");
    let store = open(&scratch, &boot(2));
    assert!(store.fresh, "the machine was started anew");
    drop(store);
    fs::remove_dir_all(scratch.network()).unwrap();
    fs::create_dir(scratch.network()).unwrap();
    assert!(is_fresh(), "another directory");
}

#[test]
fn a_call_that_is_cut_short_leaves_an_index_that_nobody_believes() {
    let scratch = Scratch::new();
    open(&scratch, &boot(1)).close();
    let mut store = open(&scratch, &boot(1));
    store
        .reserve(ip("10.0.0.2"), &Owner::attachment("c1", "eth0"))
        .unwrap();
    drop(store);
    assert!(open(&scratch, &boot(1)).fresh);
}

#[test]
fn a_rewritten_file_belongs_to_whom_it_names() {
    let scratch = Scratch::new();
    let (one, two) = (
        Owner::attachment("c1", "eth0"),
        Owner::attachment("c2", "eth0"),
    );
    let mut store = open(&scratch, &boot(1));
    store.reserve(ip("10.0.0.2"), &one).unwrap();
    // In place, so that the directory's time does not show it.
    scratch.write("10.0.0.2", two.text());
    assert_eq!(store.held_by(&one).unwrap(), []);
    assert_eq!(store.held_by(&two).unwrap().len(), 1);
}

#[test]
fn a_correction_that_is_cut_short_leaves_an_index_that_nobody_believes() {
    for changes in 0..8 {
        let scratch = Scratch::new();
        let mut store = open(&scratch, &boot(1));
        for host in 2..7 {
            store
                .reserve(
                    ip(&format!("10.0.0.{host}")),
                    &Owner::attachment("c1", "eth0"),
                )
                .unwrap();
        }
        store.close();
        // In place, so that the seal holds.
        for host in 2..7 {
            scratch.write(&format!("10.0.0.{host}"), "c2\r\neth0");
        }
        let mut store = open(&scratch, &boot(1));
        let (corrected, left) =
            living_for(changes, || store.held_by(&Owner::attachment("c1", "eth0")));
        drop((store, corrected));
        assert_eq!(
            open(&scratch, &boot(1)).fresh,
            changes > 0 || left > 0,
            "after {changes}"
        );
    }
}

#[test]
fn a_file_that_vanished_unseen_leads_nobody_astray() {
    let scratch = Scratch::new();
    let [one, two] = ["c1", "c2"].map(|id| Owner::attachment(id, "eth0"));
    let mut store = open(&scratch, &boot(1));
    store.reserve(ip("10.0.0.2"), &one).unwrap();
    store.close();
    let mut store = open(&scratch, &boot(1));
    // Just while we write something else.
    fs::remove_file(scratch.network().join("10.0.0.2")).unwrap();
    store.reserve(ip("10.0.0.3"), &one).unwrap();
    store.close();
    let mut store = open(&scratch, &boot(1));
    assert!(!store.fresh && store.reserve(ip("10.0.0.2"), &two).unwrap());
    assert_eq!(store.held_by(&one).unwrap().len(), 1);
    assert_eq!(store.held_by(&two).unwrap().len(), 1);
    store.close();
    assert!(!open(&scratch, &boot(1)).fresh);
    audit(&scratch, 1);
}

#[test]
fn without_a_boot_id_nothing_is_kept_and_nothing_is_stale() {
    let scratch = Scratch::new();
    let mut world = boot(1);
    world.boot.id = None;
    let mut store = open(&scratch, &world);
    store
        .reserve(ip("10.0.0.2"), &Owner::attachment("c1", "eth0"))
        .unwrap();
    store.close();
    assert!(!scratch.place().index.exists());
    let mut store = open(&scratch, &world);
    assert!(!store.held_by(&Owner::attachment("c1", "eth0")).unwrap()[0].stale);
}

#[test]
fn a_file_that_was_replaced_after_a_reboot_is_of_this_boot() {
    let scratch = Scratch::new();
    let owner = Owner::attachment("c1", "eth0");
    let mut store = open(&scratch, &boot(1));
    store.reserve(ip("10.0.0.2"), &owner).unwrap();
    store.close();
    fs::remove_file(scratch.network().join("10.0.0.2")).unwrap();
    scratch.write("10.0.0.2", owner.text());
    let world = boot_at(2, now().unwrap() - 1_000_000_000);
    assert!(!open(&scratch, &world).held_by(&owner).unwrap()[0].stale);
}

#[test]
fn a_directory_taken_away_while_we_waited_for_its_lock_is_made_anew() {
    let scratch = Scratch::new();
    let held = open(&scratch, &boot(1));
    let place = scratch.place();
    let waiting = std::thread::spawn({
        let place = place.clone();
        move || {
            Store::open(&place, &boot(1), Purpose::Reserve)
                .unwrap()
                .unwrap()
                .directory
                .identity()
                .unwrap()
        }
    });
    let inode = fs::metadata(place.reservations.join("lock")).unwrap().ino();
    let waits = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
    };
    while !waits() {
        std::thread::yield_now();
    }
    fs::remove_dir_all(&place.reservations).unwrap();
    drop(held);
    let opened = waiting.join().unwrap();
    let there = fs::metadata(&place.reservations).unwrap();
    assert_eq!(opened.inode, there.ino());
}

#[test]
fn the_plugin_has_its_name() {
    assert_eq!(HostLocal.name(), "host-local");
}
