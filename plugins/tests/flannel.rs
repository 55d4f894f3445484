//! The flannel plugin as a process, with a delegate that writes down what it was told.

mod recorder;

use std::{fs, os::unix::fs::PermissionsExt};

use recorder::World;
use serde_json::{Value, json};

/// What kube-flannel installs.
fn kube_flannel() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
        "delegate": {"hairpinMode": true, "isDefaultGateway": true}})
}

fn of_version(version: &str) -> Value {
    let mut conf = kube_flannel();
    conf["cniVersion"] = version.into();
    conf
}

const SAVED: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"172.20.1.0/24"}]],"routes":[{"dst":"172.20.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
const SAVED_OF_OLD: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"routes":[{"dst":"172.20.0.0/16"}],"subnet":"172.20.1.0/24","type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
const CONTAINER: &str = "6233db63bf76d03925a484ca123794361a0e3fb8478940a7b008cdab980278ec";

#[test]
fn add_saves_what_the_go_plugin_saves_and_hands_it_to_the_delegate() {
    let world = World::new();
    let answer = world.call("ADD", CONTAINER, "eth0", &kube_flannel());
    assert_eq!(answer.json()["ips"][0]["address"], "172.20.1.5/24");
    assert_eq!(answer.stderr, "", "the configuration is nobody's log");
    assert_eq!(world.scratch(), [(CONTAINER.to_owned(), SAVED.to_owned())]);
    assert_eq!(world.calls(), [format!("ADD {CONTAINER} eth0")]);
    assert_eq!(world.told("ADD").to_string(), SAVED);
    let mode = |path: &str| fs::metadata(world.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode(&format!("data/{CONTAINER}")), 0o600);
}

#[test]
fn del_hands_the_saved_configuration_to_the_delegate_and_leaves_nothing() {
    let world = World::new();
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
    world.lose("subnet.env");
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    assert_eq!(world.told("DEL").to_string(), SAVED);
    assert_eq!(world.scratch(), []);
}

#[test]
fn del_works_from_the_file_of_a_pod_that_an_old_go_plugin_added() {
    let world = World::new();
    world.save(CONTAINER, SAVED_OF_OLD);
    world.lose("subnet.env");
    world
        .call("DEL", CONTAINER, "eth0", &kube_flannel())
        .succeeds();
    assert_eq!(world.told("DEL").to_string(), SAVED_OF_OLD);
    assert_eq!(world.scratch(), []);
}

#[test]
fn a_chain_without_version_answers_in_the_oldest_form_and_saves_none() {
    let world = World::new();
    let mut conf = kube_flannel();
    conf.as_object_mut().unwrap().remove("cniVersion");
    let answer = world.call("ADD", "c1", "eth0", &conf).json();
    assert_eq!(answer["cniVersion"], "0.1.0");
    assert_eq!(answer["ip4"]["ip"], "172.20.1.5/24");
    let saved = SAVED.replace(r#""cniVersion":"0.3.1","#, "");
    assert_eq!(world.scratch(), [("c1".to_owned(), saved.clone())]);
    world.call("DEL", "c1", "eth0", &conf).succeeds();
    assert_eq!(world.told("DEL").to_string(), saved);
}

#[test]
fn every_version_is_served_in_its_own_form() {
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let world = World::new();
        let answer = world.call("ADD", "c1", "eth0", &of_version(version)).json();
        assert_eq!(answer["cniVersion"], version);
        assert_eq!(world.told("ADD")["cniVersion"], version);
        world
            .call("DEL", "c1", "eth0", &of_version(version))
            .succeeds();
        assert_eq!(world.scratch(), []);
    }
}

/// Upstream removes the file first, so that the retry does nothing and reports success.
#[test]
fn the_file_is_kept_when_the_delegate_fails_to_delete() {
    let world = World::new();
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
    world.fail("DEL");
    let error = world.call("DEL", "c1", "eth0", &kube_flannel()).fails(123);
    assert!(
        error.contains("bridge") && error.contains("no luck"),
        "{error}"
    );
    assert_eq!(world.scratch(), [("c1".to_owned(), SAVED.to_owned())]);
    world.mend("DEL");
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    assert_eq!(world.calls().last().unwrap(), "DEL c1 eth0");
    assert_eq!(world.scratch(), []);
}

/// Upstream keeps one file a container.
#[test]
fn two_interfaces_of_one_pod_do_not_overwrite_each_other() {
    let mut second = kube_flannel();
    second["name"] = "storage".into();
    second["delegate"]["bridge"] = "cni1".into();
    for second in [second, kube_flannel()] {
        let orders = [["eth0", "net1"], ["net1", "eth0"]];
        for order in orders {
            let world = World::new();
            let conf = |ifname: &str| {
                if ifname == "eth0" {
                    kube_flannel()
                } else {
                    second.clone()
                }
            };
            world.call("ADD", "c1", "eth0", &conf("eth0")).json();
            world.call("ADD", "c1", "net1", &conf("net1")).json();
            let names: Vec<String> = world.scratch().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["c1", "c1:net1"]);
            for ifname in order {
                world.call("DEL", "c1", ifname, &conf(ifname)).succeeds();
                let told = world.told("DEL");
                assert_eq!(told["name"], conf(ifname)["name"]);
                assert_eq!(told["bridge"], conf(ifname)["delegate"]["bridge"]);
            }
            assert_eq!(world.scratch(), []);
        }
    }
}

#[test]
fn another_networks_file_is_neither_used_nor_removed() {
    let world = World::new();
    let other = SAVED.replace("cbr0", "storage");
    world.save("c1", &other);
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    assert_eq!(world.told("DEL").to_string(), SAVED);
    assert_eq!(world.scratch(), [("c1".to_owned(), other)]);
}

/// Upstream leaks the pod's address and link here: no file, no DEL.
#[test]
fn del_without_its_file_still_delegates() {
    let world = World::new();
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    assert_eq!(world.told("DEL").to_string(), SAVED);
}

#[test]
fn del_without_its_file_and_without_subnet_env_still_delegates() {
    let world = World::new();
    world.lose("subnet.env");
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    let told = world.told("DEL");
    assert_eq!(
        (&told["type"], &told["name"], &told["ipMasq"]),
        (&json!("bridge"), &json!("cbr0"), &json!(true))
    );
    assert_eq!(told["ipam"]["type"], "host-local");
    assert_eq!(
        told["ipam"]["ranges"],
        json!([[{"subnet": "192.0.2.0/24"}]])
    );
}

#[test]
fn del_without_anything_takes_the_subnet_from_the_result_of_add() {
    let world = World::new();
    world.lose("subnet.env");
    let mut conf = of_version("1.0.0");
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "172.20.1.5/24"}]});
    world.call("DEL", "c1", "eth0", &conf).succeeds();
    let told = world.told("DEL");
    assert_eq!(
        told["ipam"]["ranges"],
        json!([[{"subnet": "172.20.1.0/24"}]])
    );
    assert_eq!(told["prevResult"], conf["prevResult"]);
}

/// Upstream calls this a success, and leaks.
#[test]
fn del_with_a_file_that_is_no_json_still_delegates() {
    for spoilt in [
        "",
        "{",
        "[]",
        "\0\0\0",
        r#"{"name":"cbr0"}"#,
        r#"{"name":"cbr0","type":"flannel"}"#,
    ] {
        let world = World::new();
        world.save("c1", spoilt);
        world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
        assert_eq!(world.scratch(), [], "{spoilt:?}");
        assert_eq!(world.told("DEL").to_string(), SAVED, "{spoilt:?}");
    }
}

#[test]
fn del_of_what_could_never_be_added_succeeds() {
    let world = World::new();
    let mut conf = kube_flannel();
    for kind in ["flannel", "not-installed", "a/b"] {
        conf["delegate"]["type"] = kind.into();
        world.call("ADD", "c1", "eth0", &conf).fails(7);
        world.call("DEL", "c1", "eth0", &conf).succeeds();
    }
    assert!(world.calls().is_empty());
}

#[test]
fn del_twice_is_no_error() {
    let world = World::new();
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
    for _ in 0..2 {
        world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    }
    assert_eq!(world.calls().len(), 3);
}

#[test]
fn a_delegate_that_fails_to_add_leaves_nothing() {
    let world = World::new();
    world.fail("ADD");
    let error = world.call("ADD", "c1", "eth0", &kube_flannel()).fails(123);
    assert!(error.contains("failed to delegate add"), "{error}");
    assert_eq!(world.calls(), ["ADD c1 eth0", "DEL c1 eth0"]);
    assert_eq!(world.scratch(), []);
    world.mend("ADD");
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
}

#[test]
fn a_delegate_that_can_neither_add_nor_undo_is_remembered() {
    let world = World::new();
    world.fail("ADD");
    world.fail("DEL");
    world.call("ADD", "c1", "eth0", &kube_flannel()).fails(123);
    assert_eq!(world.scratch(), [("c1".to_owned(), SAVED.to_owned())]);
}

/// Upstream answers 999, which tells no runtime that waiting helps, and its STATUS says ready.
#[test]
fn p17_without_subnet_env_add_says_try_again_and_status_not_available() {
    let world = World::new();
    world.lose("subnet.env");
    let error = world.call("ADD", "c1", "eth0", &kube_flannel()).fails(11);
    assert!(
        error.contains("no such file or directory. Check the flannel pod log for this node."),
        "{error}"
    );
    let error = world.call("STATUS", "", "", &of_version("1.1.0")).fails(50);
    assert!(
        error.contains("subnet.env") && error.contains("weftd"),
        "{error}"
    );
    assert!(world.calls().is_empty() && !world.path("data").exists());
}

#[test]
fn with_half_a_subnet_env_add_says_try_again_and_status_not_available() {
    let world = World::new();
    world.write(
        "subnet.env",
        "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.1.1/24\n",
    );
    let error = world.call("ADD", "c1", "eth0", &kube_flannel()).fails(11);
    assert!(
        error.contains("is missing FLANNEL_MTU, FLANNEL_IPMASQ"),
        "{error}"
    );
    world.call("STATUS", "", "", &of_version("1.1.0")).fails(50);
}

/// Upstream panics.
#[test]
fn a_line_without_an_equals_sign_is_an_error_and_no_panic() {
    let world = World::new();
    world.write("subnet.env", "FLANNEL_NETWORK\n");
    let error = world.call("ADD", "c1", "eth0", &kube_flannel()).fails(6);
    assert!(
        error.contains(r#"the line \"FLANNEL_NETWORK\" has no \"=\""#),
        "{error}"
    );
    world.call("STATUS", "", "", &of_version("1.1.0")).fails(50);
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
}

#[test]
fn status_is_the_delegates_where_the_lease_is_there() {
    let world = World::new();
    world
        .call("STATUS", "", "", &of_version("1.1.0"))
        .succeeds();
    assert_eq!(world.told("STATUS")["ipam"]["type"], "host-local");
    world.fail("STATUS");
    world
        .call("STATUS", "", "", &of_version("1.1.0"))
        .fails(123);
    let mut conf = of_version("1.1.0");
    conf["delegate"]["type"] = "not-installed".into();
    world.call("STATUS", "", "", &conf).fails(50);
}

/// Upstream's CHECK does nothing.
#[test]
fn check_is_the_delegates_with_what_was_saved_and_the_result_of_add() {
    let world = World::new();
    let mut conf = of_version("1.0.0");
    conf["prevResult"] = world.call("ADD", "c1", "eth0", &conf).json();
    world.write("subnet.env", "");
    world.call("CHECK", "c1", "eth0", &conf).succeeds();
    let mut expected: Value = SAVED.replace("0.3.1", "1.0.0").parse().unwrap();
    expected["prevResult"] = conf["prevResult"].clone();
    assert_eq!(world.told("CHECK"), expected);
    world.fail("CHECK");
    world.call("CHECK", "c1", "eth0", &conf).fails(123);
}

/// Upstream's GC does nothing.
#[test]
fn gc_is_the_delegates_and_removes_the_files_of_the_dead_without_subnet_env() {
    let world = World::new();
    world.lose("subnet.env");
    let mine = SAVED;
    let other = SAVED.replace("cbr0", "storage");
    for (name, text) in [
        ("dead", mine),
        ("dead:net1", mine),
        ("living", mine),
        ("living:net1", mine),
        ("living:net2", mine),
        ("dead-of-another", &other),
        ("spoilt", "{"),
    ] {
        world.save(name, text);
    }
    let mut conf = of_version("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "living", "ifname": "eth0"}, {"containerID": "living", "ifname": "net2"}]);
    world.call("GC", "", "", &conf).succeeds();
    assert_eq!(
        world.told("GC")["cni.dev/valid-attachments"],
        conf["cni.dev/valid-attachments"]
    );
    let left: Vec<String> = world.scratch().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["dead-of-another", "living", "living:net2", "spoilt"]);
}

#[test]
fn gc_removes_no_file_that_a_failing_delegate_may_still_need() {
    let world = World::new();
    world.save("dead", SAVED);
    let mut conf = of_version("1.1.0");
    conf["cni.dev/valid-attachments"] = Value::Null;
    world.fail("GC");
    world.call("GC", "", "", &conf).fails(123);
    assert_eq!(world.scratch().len(), 1);
    world.mend("GC");
    world.call("GC", "", "", &conf).succeeds();
    assert_eq!(world.scratch(), []);
}

#[test]
fn gc_that_is_not_told_who_lives_collects_nothing() {
    let world = World::new();
    world.save("dead", SAVED);
    world.call("GC", "", "", &of_version("1.1.0")).succeeds();
    assert_eq!(world.scratch().len(), 1);
    world.call("GC", "", "", &of_version("1.0.0")).fails(1);
}

#[test]
fn what_a_killed_add_left_half_written_goes_with_del_and_with_gc() {
    let world = World::new();
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
    let temporary = format!(".{}:c1:eth0", weft_plugins::owner::network_mark("cbr0"));
    world.save(&temporary, "{\"half");
    world.call("DEL", "c1", "eth0", &kube_flannel()).succeeds();
    assert_eq!(world.scratch(), []);
    world.save(&temporary, "{\"half");
    world.call("ADD", "c1", "eth0", &kube_flannel()).json();
    assert_eq!(world.scratch(), [("c1".to_owned(), SAVED.to_owned())]);
    world.save(&temporary, "{\"half");
    let mut conf = of_version("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([]);
    world.call("GC", "", "", &conf).succeeds();
    assert_eq!(world.scratch(), []);
}

#[test]
fn a_data_directory_that_is_none_is_told_with_its_path() {
    let world = World::new();
    world.write("data", "a file");
    let error = world.call("ADD", "c1", "eth0", &kube_flannel()).fails(5);
    assert!(
        error.contains("/data") && error.contains("dataDir"),
        "{error}"
    );
    assert!(world.calls().is_empty());
}

#[test]
fn a_pod_saved_in_another_version_is_deleted_in_that_version() {
    let world = World::new();
    world.save("c1", SAVED);
    let mut conf = of_version("1.0.0");
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": []});
    world.call("DEL", "c1", "eth0", &conf).succeeds();
    assert_eq!(world.told("DEL").to_string(), SAVED);
}

#[test]
fn version_needs_no_input_and_names_every_version() {
    let world = World::new();
    let answer = world.call("VERSION", "", "", &Value::Null).json();
    assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
}
