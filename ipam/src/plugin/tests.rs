use std::{fs, net::IpAddr};

use serde_json::{Value, json};
use weft_cni::{Call, Code, Error, Result};

use super::*;
use crate::{
    boot,
    testing::{Scratch, boot, boot_at},
};

fn ips(outcome: Result<Outcome>) -> Vec<String> {
    outcome
        .unwrap()
        .ips
        .iter()
        .map(|ip| ip.address.to_string())
        .collect()
}

fn add_one(scratch: &Scratch, id: &str) -> Result<Outcome> {
    add(&scratch.call(id, json!({})), &boot(1))
}

fn with(call: Call, change: impl FnOnce(&mut Call)) -> Call {
    let mut call = call;
    change(&mut call);
    call
}

fn msg<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().msg
}

fn dual() -> Value {
    json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd99::/64"}]]}})
}

fn attachments(list: &Value) -> Value {
    json!({"cni.dev/valid-attachments": list})
}

#[test]
fn a_set_of_eight_yields_five_then_none_and_then_the_one_that_came_back() {
    let scratch = Scratch::new();
    for n in 2..=6 {
        assert_eq!(
            ips(add_one(&scratch, &format!("c{n}"))),
            [format!("10.0.0.{n}/29")]
        );
    }
    let error = add_one(&scratch, "c7").unwrap_err();
    assert_eq!(
        (error.code, error.msg.as_str()),
        (
            Code::TryAgain,
            "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
        )
    );
    del(&scratch.call("c3", json!({})), &boot(1)).unwrap();
    assert_eq!(ips(add_one(&scratch, "c7")), ["10.0.0.3/29"]);
}

#[test]
fn an_answer_has_an_address_a_set_the_routes_and_the_name_servers() {
    let scratch = Scratch::new();
    let resolv_conf = scratch.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 10.0.0.9\n").unwrap();
    let more = json!({"ipam": {
        "ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd99::/64", "gateway": "fd99::9"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.5.5.5/16", "gw": "10.0.0.6", "mtu": 1400}],
        "resolvConf": resolv_conf
    }});
    let outcome = add(&scratch.call("c1", more), &boot(1)).unwrap();
    assert_eq!(
        outcome.to_json(weft_cni::Version::V1_0_0).unwrap(),
        json!({"cniVersion": "1.0.0",
            "ips": [{"address": "10.0.0.2/29", "gateway": "10.0.0.1"}, {"address": "fd99::1/64", "gateway": "fd99::9"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.5.5.5/16", "gw": "10.0.0.6", "mtu": 1400}],
            "dns": {"nameservers": ["10.0.0.9"]}})
    );
    let owner = "c1\r\neth0".to_owned();
    assert_eq!(
        scratch.reservations(),
        [
            ("10.0.0.2".parse().unwrap(), owner.clone()),
            ("fd99::1".parse().unwrap(), owner)
        ]
    );
    let last =
        |n| fs::read_to_string(scratch.network().join(format!("last_reserved_ip.{n}"))).unwrap();
    assert_eq!(
        (last(0).as_str(), last(1).as_str()),
        ("10.0.0.2", "fd99::1")
    );
}

#[test]
fn repeat_allocating_for_the_same_attachment_is_an_error_and_takes_nothing_away() {
    let scratch = Scratch::new();
    add_one(&scratch, "c1").unwrap();
    assert_eq!(
        msg(add_one(&scratch, "c1")),
        "failed to allocate for range 0: 10.0.0.2 has been allocated to c1, duplicate allocation is not allowed"
    );
    assert_eq!(scratch.addresses(), ["10.0.0.2"]);
    let second = with(scratch.call("c1", json!({})), |call| {
        call.env.ifname = "net1".into()
    });
    assert_eq!(
        ips(add(&second, &boot(1))),
        ["10.0.0.3/29"],
        "another interface is another attachment"
    );
}

#[test]
fn an_address_asked_for_is_given_or_it_is_said_why_not() {
    let scratch = Scratch::new();
    let ask = |id: &str, ip: &str| {
        let call = scratch.call(id, json!({"args": {"cni": {"ips": [ip]}}}));
        add(&call, &boot(1))
    };
    assert_eq!(ips(ask("c1", "10.0.0.5/29")), ["10.0.0.5/29"]);
    assert_eq!(
        msg(ask("c2", "10.0.0.5")),
        "failed to allocate for range 0: requested IP address 10.0.0.5 is not available in range set 10.0.0.1-10.0.0.6"
    );
    assert_eq!(
        msg(ask("c2", "10.0.0.1")),
        "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"
    );
    assert_eq!(
        msg(ask("c2", "10.9.9.9")),
        "failed to allocate all requested IPs: 10.9.9.9"
    );
    assert_eq!(
        scratch.addresses(),
        ["10.0.0.5"],
        "a failure leaves nothing"
    );
    assert_eq!(
        ips(add_one(&scratch, "c3")),
        ["10.0.0.2/29"],
        "but the turn has moved on"
    );
}

#[test]
fn addresses_asked_for_are_dealt_to_the_sets_that_have_them() {
    let scratch = Scratch::new();
    let mut more = dual();
    more["runtimeConfig"] = json!({"ips": ["fd99::77", "10.0.0.4/29"]});
    assert_eq!(
        ips(add(&scratch.call("c1", more), &boot(1))),
        ["10.0.0.4/29", "fd99::77/64"]
    );
}

#[test]
fn when_one_set_fails_the_others_get_theirs_back() {
    let scratch = Scratch::new();
    scratch.write("fd99::1", "x");
    let more = json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/29"}],
        [{"subnet": "fd99::/64", "rangeEnd": "fd99::1", "gateway": "fd99::ff"}]]}});
    let error = msg(add(&scratch.call("c1", more), &boot(1)));
    assert_eq!(
        error,
        "failed to allocate for range 1: no IP addresses available in range set: fd99::1-fd99::1"
    );
    assert_eq!(scratch.addresses(), ["fd99::1"]);
}

#[test]
fn a_delete_takes_what_is_its_own_of_every_set_and_bears_everything() {
    let scratch = Scratch::new();
    let call = |id: &str| scratch.call(id, dual());
    del(&call("c1"), &boot(1)).unwrap();
    assert!(
        !scratch.network().exists(),
        "and makes nothing where nothing was"
    );
    add(&call("c1"), &boot(1)).unwrap();
    add(&call("c2"), &boot(1)).unwrap();
    let other = with(call("c1"), |call| call.env.ifname = "net1".into());
    del(&other, &boot(1)).unwrap();
    del(&call("c3"), &boot(1)).unwrap();
    assert_eq!(scratch.addresses().len(), 4);
    // The ranges have changed meanwhile, and the new ones make no sense.
    let changed = scratch.call(
        "c1",
        json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/32"}]]}}),
    );
    del(&changed, &boot(1)).unwrap();
    assert_eq!(scratch.addresses(), ["10.0.0.3", "fd99::3"]);
    del(&call("c2"), &boot(1)).unwrap();
    del(&call("c2"), &boot(1)).unwrap();
    assert_eq!(scratch.addresses(), [""; 0]);
}

#[test]
fn what_the_oldest_plugins_reserved_is_found_by_its_container_alone() {
    let scratch = Scratch::new();
    scratch.write("10.0.0.4", "c1\n");
    scratch.write("10.0.0.5", "c2");
    scratch.write("10.0.0.6", "  c2\r\neth0 \n");
    let call = |id: &str| scratch.call(id, json!({}));
    assert!(check(&call("c1"), &boot(1)).is_ok());
    assert_eq!(
        reserved_in(&call("c1"), &boot(1)).unwrap(),
        ["10.0.0.4".parse::<IpAddr>().unwrap()]
    );
    del(&call("c1"), &boot(1)).unwrap();
    assert_eq!(scratch.addresses(), ["10.0.0.5", "10.0.0.6"]);
    del(&call("c2"), &boot(1)).unwrap();
    assert_eq!(
        scratch.addresses(),
        ["10.0.0.5"],
        "what names the interface goes first"
    );
    del(&call("c2"), &boot(1)).unwrap();
    assert_eq!(scratch.addresses(), [""; 0]);
}

#[test]
fn check_knows_who_has_an_address() {
    let scratch = Scratch::new();
    let call = scratch.call("c1", json!({}));
    let missing = "host-local: Failed to find address added by container c1";
    assert_eq!(msg(check(&call, &boot(1))), missing);
    assert!(!scratch.network().exists());
    add(&call, &boot(1)).unwrap();
    check(&call, &boot(1)).unwrap();
    fs::remove_file(scratch.network().join("10.0.0.2")).unwrap();
    assert_eq!(msg(check(&call, &boot(1))), missing);
}

#[test]
fn the_addresses_of_an_attachment_can_be_asked_for_before_it_goes() {
    let scratch = Scratch::new();
    let call = scratch.call("c1", dual());
    assert_eq!(reserved(&call).unwrap(), [] as [IpAddr; 0]);
    add(&call, &World::real()).unwrap();
    let mut held: Vec<String> = reserved(&call)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    held.sort();
    assert_eq!(held, ["10.0.0.2", "fd99::2"]);
}

#[test]
fn p1_plugins_498_an_empty_file_is_used_and_deleted_again() {
    let scratch = Scratch::new();
    for n in 2..=6 {
        scratch.write(
            &format!("10.0.0.{n}"),
            if n % 2 == 0 { "" } else { " \r\n\n" },
        );
    }
    for n in 2..=6 {
        assert_eq!(
            ips(add_one(&scratch, &format!("c{n}"))),
            [format!("10.0.0.{n}/29")]
        );
    }
    del(&scratch.call("c4", json!({})), &boot(1)).unwrap();
    scratch.write("10.0.0.4", "");
    let call = scratch.call("c9", json!({"runtimeConfig": {"ips": ["10.0.0.4"]}}));
    assert_eq!(ips(add(&call, &boot(1))), ["10.0.0.4/29"]);
}

#[test]
fn what_a_person_put_under_an_address_keeps_it() {
    let scratch = Scratch::new();
    scratch.write("10.0.0.3", "kept for the printer");
    fs::create_dir(scratch.network().join("10.0.0.4")).unwrap();
    std::os::unix::fs::symlink("/nowhere", scratch.network().join("10.0.0.5")).unwrap();
    assert_eq!(ips(add_one(&scratch, "c1")), ["10.0.0.2/29"]);
    assert_eq!(ips(add_one(&scratch, "c2")), ["10.0.0.6/29"]);
    assert!(add_one(&scratch, "c3").is_err());
    let ask = scratch.call("c3", json!({"runtimeConfig": {"ips": ["10.0.0.4"]}}));
    assert!(msg(add(&ask, &boot(1))).contains("is not available"));
    gc(&scratch.call("", attachments(&json!([]))), &boot(1)).unwrap();
    assert!(scratch.network().join("10.0.0.3").exists());
    assert!(scratch.network().join("10.0.0.4").exists());
}

#[test]
fn a_collection_keeps_the_living_and_what_is_not_a_plugins() {
    let scratch = Scratch::new();
    for id in ["c1", "c2"] {
        add(&scratch.call(id, dual()), &boot(1)).unwrap();
    }
    scratch.write("10.0.0.4", "c1");
    scratch.write("10.0.0.5", "c9");
    scratch.write("10.0.0.6", "not for pods");
    scratch.write("10.0.0.7", "");
    scratch.write("notes", "c9\r\neth0");
    gc(&scratch.call("", json!({})), &boot(1)).unwrap();
    assert_eq!(
        scratch.addresses().len(),
        8,
        "a runtime that says nothing knows nothing"
    );
    let living = attachments(&json!([{"containerID": "c1", "ifname": "eth0"}]));
    gc(&scratch.call("", living.clone()), &boot(1)).unwrap();
    assert_eq!(
        scratch.addresses(),
        ["10.0.0.2", "10.0.0.4", "10.0.0.6", "fd99::2"]
    );
    for other in ["notes", "lock", "last_reserved_ip.0"] {
        assert!(scratch.network().join(other).exists());
    }
    gc(&scratch.call("", living), &boot(1)).unwrap();
    gc(&scratch.call("", attachments(&Value::Null)), &boot(1)).unwrap();
    assert_eq!(scratch.addresses(), ["10.0.0.6"]);
    assert_eq!(
        ips(add_one(&scratch, "c5")),
        ["10.0.0.4/29"],
        "what was collected is free"
    );
}

#[test]
fn a_status_makes_nothing_and_tells_what_would_fail() {
    let scratch = Scratch::new();
    let judge =
        |more: Value| status(&scratch.call("", more), &boot(1)).map_err(|error: Error| error.code);
    assert_eq!(judge(json!({})), Ok(()));
    assert_eq!(
        judge(json!({"ipam": {"statusWhenExhausted": true}})),
        Ok(())
    );
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert_eq!(
        judge(json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/31"}]]}})),
        Err(Code::NotAvailable)
    );
    assert_eq!(
        judge(json!({"ipam": {"ranges": 5}})),
        Err(Code::NotAvailable)
    );
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        judge(json!({"ipam": {"dataDir": file}})),
        Err(Code::NotAvailable)
    );
    for n in 2..=6 {
        add_one(&scratch, &format!("c{n}")).unwrap();
    }
    assert_eq!(
        judge(json!({})),
        Ok(()),
        "a node that is full is not a node that is down"
    );
    assert_eq!(
        judge(json!({"ipam": {"statusWhenExhausted": true}})),
        Err(Code::NotAvailable)
    );
}

#[test]
fn p1_podman_3759_a_static_address_comes_back_to_its_container_after_a_reboot() {
    let scratch = Scratch::new();
    let ask = |id: &str, ifname: &str| {
        let call = scratch.call(id, json!({"runtimeConfig": {"ips": ["10.0.0.5"]}}));
        with(call, |call| call.env.ifname = ifname.into())
    };
    add(&ask("c1", "eth0"), &boot(1)).unwrap();
    assert!(
        add(&ask("c1", "eth0"), &boot(1)).is_err(),
        "the same boot: its pod may live"
    );
    assert!(
        add(&ask("c2", "eth0"), &boot(2)).is_err(),
        "another container's"
    );
    assert_eq!(ips(add(&ask("c1", "net1"), &boot(2))), ["10.0.0.5/29"]);
    assert!(
        add(&ask("c1", "eth0"), &boot(2)).is_err(),
        "it is of this boot now"
    );
}

#[test]
fn p1_nerdctl_665_a_container_started_again_after_a_reboot_gets_an_address() {
    let scratch = Scratch::new();
    let call = scratch.call("c1", dual());
    add(&call, &boot(1)).unwrap();
    assert_eq!(ips(add(&call, &boot(2))), ["10.0.0.3/29", "fd99::3/64"]);
    assert_eq!(
        scratch.addresses(),
        ["10.0.0.3", "fd99::3"],
        "what it had is free"
    );
    assert!(add(&call, &boot(2)).is_err());
    assert!(add(&call, &boot(3)).is_ok());
}

#[test]
fn the_dead_of_an_earlier_boot_make_room_when_there_is_none_the_oldest_first() {
    let scratch = Scratch::new();
    scratch.write("10.0.0.2", "kept\r\nby a person");
    for n in [4, 3] {
        let call = scratch.call(
            &format!("c{n}"),
            json!({"runtimeConfig": {"ips": [format!("10.0.0.{n}")]}}),
        );
        add(&call, &boot(1)).unwrap();
    }
    let later = |id: &str| add(&scratch.call(id, json!({})), &boot(2));
    assert_eq!(
        ips(later("d1")),
        ["10.0.0.5/29"],
        "nothing is reclaimed while there is room"
    );
    assert_eq!(ips(later("d2")), ["10.0.0.6/29"]);
    assert_eq!(ips(later("d3")), ["10.0.0.4/29"], "made before .3 was");
    assert_eq!(ips(later("d4")), ["10.0.0.3/29"]);
    assert!(
        later("d5").is_err(),
        "what a person keeps, and what lives, is left alone"
    );
    assert_eq!(scratch.reservations()[0].1, "kept\r\nby a person");
}

#[test]
fn what_the_go_plugin_makes_after_a_reboot_is_not_taken_for_older() {
    let scratch = Scratch::new();
    add_one(&scratch, "c1").unwrap();
    for n in 3..=6 {
        scratch.write(&format!("10.0.0.{n}"), &format!("g{n}\r\neth0"));
    }
    let now = boot::now().unwrap();
    // Boot 2 began a minute and a half ago: no index of it knew those, but they are younger.
    let world = boot_at(2, now - 90_000_000_000);
    let add = |id: &str, world: &World| add(&scratch.call(id, json!({})), world);
    assert_eq!(
        ips(add("d1", &world)),
        ["10.0.0.2/29"],
        "this one was known in boot 1"
    );
    assert!(add("d2", &world).is_err());
    // And now they all are older than the boot for sure, and no index need have known them.
    fs::remove_dir_all(scratch.path().join(".weft")).unwrap();
    let world = boot_at(3, now + 3_600_000_000_000);
    for n in 2..=6 {
        assert!(add(&format!("e{n}"), &world).is_ok());
    }
    assert!(add("e7", &world).is_err());
}

#[test]
fn an_exhausted_set_is_looked_at_again_before_it_is_said_to_be() {
    let scratch = Scratch::new();
    for n in 2..=6 {
        add_one(&scratch, &format!("c{n}")).unwrap();
    }
    // A person removed a file in the very moment in which we wrote: no seal shows that.
    let seal = fs::metadata(scratch.network()).unwrap();
    let mut store = Store::open(&scratch.place(), &boot(1), Purpose::Release)
        .unwrap()
        .unwrap();
    fs::remove_file(scratch.network().join("10.0.0.4")).unwrap();
    store.note_last_reserved(0, "10.0.0.6".parse().unwrap());
    store.close();
    assert_ne!(
        fs::metadata(scratch.network()).unwrap().modified().unwrap(),
        seal.modified().unwrap()
    );
    assert_eq!(ips(add_one(&scratch, "c7")), ["10.0.0.4/29"]);
}

#[test]
fn without_a_place_for_an_index_everything_works_by_reading_all() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join(".weft"), "in the way").unwrap();
    for n in 2..=6 {
        assert_eq!(
            ips(add_one(&scratch, &format!("c{n}"))),
            [format!("10.0.0.{n}/29")]
        );
    }
    assert!(add_one(&scratch, "c2").is_err());
    del(&scratch.call("c4", json!({})), &boot(1)).unwrap();
    assert_eq!(ips(add_one(&scratch, "c7")), ["10.0.0.4/29"]);
}
