//! Bad input, as tables: for every plugin and verb where it applies, a clear error with the right
//! code, within a second, and nothing left behind. What DEL and GC can bear, they bear.
mod bad;
mod node;

use std::fs;

use bad::{Bad, Judge, PLUGINS, VERBS, good, tables, with};
use node::LOOK;
use serde_json::{Value, json};
use weft_netns::Verb::{Add, Check, Del, Gc, Status};
use weft_netns::{Verb, World, in_world, skip_unless};

fn in_court(trial: impl FnOnce(&mut Judge<'_>, &World)) {
    if !skip_unless(&LOOK) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        pod.exec("ip link set lo up");
        let mut judge = Judge::new(&pod);
        trial(&mut judge, world);
        judge.done();
    });
}

fn everywhere(make: impl Fn(&'static str, Verb) -> Bad) -> Vec<Bad> {
    PLUGINS
        .into_iter()
        .flat_map(|plugin| VERBS.map(|verb| (plugin, verb)))
        .map(|(plugin, verb)| make(plugin, verb))
        .collect()
}

// --- standard input -----------------------------------------------------------

#[test]
fn what_is_no_json_object_is_refused_by_every_plugin_for_every_verb() {
    in_court(|judge, _| {
        let deep = ["[", "{\"a\":"].map(|opening| opening.repeat(100_000));
        for text in [
            "",
            " \n",
            "{",
            "[]",
            "null",
            "5",
            "\"x\"",
            "{} {}",
            "{\"name\":\"n\",}",
            "{name: n}",
            "{\"name\":\"a\0b\"}",
            "\0",
            "{\"name\":\"\\ud800\"}",
            &deep[0],
            &deep[1],
        ] {
            let refused = |plugin, verb| Bad::raw(plugin, verb, text).fails(6, &["network config"]);
            judge.judge(everywhere(refused));
        }
        let binary =
            |plugin, verb| Bad::raw(plugin, verb, *b"{\"name\": \"\xff\xfe\"}").fails(6, &[]);
        judge.judge(everywhere(binary));
    });
}

#[test]
fn a_network_that_has_no_proper_name_is_refused_by_every_plugin_for_every_verb() {
    in_court(|judge, _| {
        for (name, code) in [
            (Value::Null, 7),
            (json!(""), 7),
            (json!(5), 6),
            (json!(["net"]), 6),
            (json!("../../etc"), 7),
            (json!("/etc"), 7),
            (json!("a/b"), 7),
            (json!(".."), 7),
            (json!(".hidden"), 7),
            (json!("-x"), 7),
            (json!("a b"), 7),
            (json!("a\u{0}b"), 7),
            (json!("a\nb"), 7),
            (json!("n\u{e4}me"), 7),
            (json!("\u{202e}net"), 7),
        ] {
            let refused = |plugin, verb| {
                Bad::call(plugin, verb, &with(&good(plugin), &json!({"name": name})))
                    .fails(code, &["name"])
            };
            judge.judge(everywhere(refused));
        }
    });
}

#[test]
fn an_unknown_version_is_refused_by_every_plugin_for_every_verb() {
    in_court(|judge, _| {
        for (version, code) in [
            (json!("1.0"), 1),
            (json!("v1.0.0"), 1),
            (json!("1.0.0 "), 1),
            (json!("9.9.9"), 1),
            (json!("latest"), 1),
            (json!(1), 6),
            (json!({}), 6),
        ] {
            let refused = |plugin, verb| {
                Bad::call(
                    plugin,
                    verb,
                    &with(&good(plugin), &json!({"cniVersion": version})),
                )
                .fails(code, &["ersion"])
            };
            judge.judge(everywhere(refused));
        }
        for plugin in PLUGINS {
            for (version, verb) in [("1.0.0", Gc), ("1.0.0", Status), ("0.3.1", Check)] {
                let conf = with(&good(plugin), &json!({"cniVersion": version}));
                judge.judge([Bad::call(plugin, verb, &conf).fails(1, &[verb.name(), version])]);
            }
        }
    });
}

#[test]
fn a_configuration_of_megabytes_is_read_in_time() {
    in_court(|judge, _| {
        let junk: Value = (0..200_000).map(|n| json!({"n": n})).collect();
        let long = "x".repeat(4 << 20);
        for extra in [
            json!({"junk": junk}),
            json!({"junk": long}),
            json!({"ipam": {"junk": long}}),
        ] {
            let bad = |plugin, verb| {
                let conf = with(&good(plugin), &extra);
                // It is the runtime's own affair how much it says: here only that it is borne.
                let conf = with(&conf, &json!({"cni.dev/valid-attachments": []}));
                Bad::call(plugin, verb, &conf)
            };
            judge.judge(
                everywhere(bad)
                    .into_iter()
                    .filter(|call| !call.is(Add) && !call.is(Del)),
            );
        }
    });
}

// --- variables -----------------------------------------------------------------

#[test]
fn missing_variables_are_named_all_at_once() {
    in_court(|judge, _| {
        let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
        for (verb, required) in [
            (Add, &all[..]),
            (Check, &all[..]),
            (Del, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"][..]),
            (Gc, &["CNI_PATH"][..]),
            (Status, &["CNI_PATH"][..]),
        ] {
            for plugin in PLUGINS {
                let call = Bad::call(plugin, verb, &good(plugin)).fails(4, required);
                let unset = all.iter().fold(call.clone(), |call, key| call.without(key));
                let empty = all.iter().fold(call, |call, key| call.env(key, ""));
                judge.judge([unset, empty]);
                for key in required {
                    judge.judge([Bad::call(plugin, verb, &good(plugin))
                        .without(key)
                        .fails(4, &[key])]);
                }
            }
        }
    });
}

#[test]
fn an_unknown_command_is_refused_once_the_input_is_judged() {
    in_court(|judge, _| {
        for command in ["FOO", "add", "ADD ", "DELETE", "\u{1f980}"] {
            for plugin in PLUGINS {
                let unknown = Bad::call(plugin, Add, &good(plugin)).command(command);
                let garbled = Bad::raw(plugin, Add, "{").command(command);
                judge.judge([
                    unknown.fails(4, &["unknown CNI_COMMAND"]),
                    garbled.fails(6, &[]),
                ]);
            }
        }
    });
}

#[test]
fn hostile_container_ids_and_interface_names_are_refused() {
    in_court(|judge, _| {
        use std::os::unix::ffi::OsStrExt;
        let garbage = std::ffi::OsStr::from_bytes(b"c\xff");
        let ids = [
            "../../../etc/passwd",
            "..",
            ".",
            "/",
            "a/b",
            "-rf",
            "a b",
            "a\nb",
            "a\r\neth0",
            "a;b",
            "$(reboot)",
            "c:eth0",
            "\u{e4}",
            ".hidden",
        ];
        let names = [
            ".",
            "..",
            "a/b",
            "../x",
            "a:b",
            "a b",
            "a\nb",
            "\u{2003}",
            "sixteen-letters-",
            "",
        ];
        for plugin in PLUGINS {
            for verb in [Add, Check, Del] {
                let call = || Bad::call(plugin, verb, &good(plugin));
                let ids =
                    ids.map(|id| call().env("CNI_CONTAINERID", id).fails(4, &["containerID"]));
                let names = names.map(|name| call().env("CNI_IFNAME", name).fails(4, &[]));
                judge.judge(ids.into_iter().chain(names));
                judge.judge([
                    call()
                        .env("CNI_CONTAINERID", garbage)
                        .fails(4, &["containerID"]),
                    call().env("CNI_IFNAME", garbage).fails(4, &["CNI_IFNAME"]),
                ]);
            }
        }
    });
}

/// What the specification allows and a file system or a rule's comment does not.
#[test]
fn a_container_id_of_any_length_is_served_or_refused_and_leaves_nothing() {
    in_court(|judge, _| {
        warm(judge);
        for length in [64, 128, 200, 250, 255, 256, 300, 5000] {
            let id = "c".repeat(length);
            for plugin in PLUGINS {
                let call =
                    |verb| Bad::call(plugin, verb, &good(plugin)).env("CNI_CONTAINERID", &id);
                judge.judge([call(Add), call(Del).borne()]);
            }
        }
    });
}

#[test]
fn arguments_that_are_none_are_refused_by_those_who_read_them() {
    in_court(|judge, _| {
        warm(judge);
        for plugin in ["bridge", "host-local"] {
            for (args, says) in [
                ("IP", "IP"),
                ("IP=10.22.0.9;", "IP=10.22.0.9;"),
                ("=;=", "="),
                ("FOO=1", "FOO"),
                ("IgnoreUnknown=perhaps", "perhaps"),
                ("IgnoreUnknown=1;x", "x"),
            ] {
                let refused = Bad::call(plugin, Add, &good(plugin)).env("CNI_ARGS", args);
                let borne = Bad::call(plugin, Del, &good(plugin)).env("CNI_ARGS", args);
                judge.judge([refused.fails(4, &[says]), borne.borne()]);
            }
        }
        let local = |args| Bad::call("host-local", Add, &good("host-local")).env("CNI_ARGS", args);
        judge.judge([
            local("IP=somewhere").fails(7, &["somewhere"]),
            local("IP=10.22.0.1").fails(7, &["10.22.0.1", "gateway"]),
            local("IP=10.99.0.1").fails(7, &["10.99.0.1"]),
            local("IP=fd00::1").fails(7, &["fd00::1"]),
        ]);
        let mac = |mac| Bad::call("bridge", Add, &good("bridge")).env("CNI_ARGS", mac);
        judge.judge([
            mac("MAC=zz:00:00:00:00:01").fails(7, &["zz:00:00:00:00:01"]),
            mac("MAC=01:00:00:00:00:01").fails(7, &["01:00:00:00:00:01"]),
            mac("MAC=00:00:00:00:00:00").fails(7, &["00:00:00:00:00:00"]),
        ]);
    });
}

#[test]
fn a_namespace_that_is_none_is_refused_on_add_and_borne_on_del() {
    in_court(|judge, world| {
        fs::write("/run/plain", "").unwrap();
        world.exec("mkfifo /run/fifo; ln -s loop /run/loop");
        warm(judge);
        let huge = format!("/run/{}", "x".repeat(5000));
        for path in [
            "/run/plain",
            "/run/nowhere",
            "/run/nowhere/at/all",
            "/run",
            "/run/fifo",
            "/run/loop",
            "/proc/self/ns/mnt",
            "/proc/self/status",
            "relative",
            "/run/plain/below",
            huge.as_str(),
        ] {
            for plugin in ["bridge", "loopback", "flannel"] {
                let call = |verb| Bad::call(plugin, verb, &good(plugin)).env("CNI_NETNS", path);
                judge.judge([call(Add).fails(8, &["CNI_NETNS"]), call(Del).borne()]);
            }
        }
        for plugin in PLUGINS {
            for verb in [Add, Del] {
                let own =
                    Bad::call(plugin, verb, &good(plugin)).env("CNI_NETNS", "/proc/self/ns/net");
                judge.judge([own.fails(8, &["CNI_NETNS"])]);
            }
        }
    });
}

// --- what one plugin alone reads -------------------------------------------------

/// ADD is refused as the table says; DEL, which may do so too, leaves nothing either.
fn judge_table(judge: &mut Judge<'_>, plugin: &'static str, table: &'static str) {
    for row in table.lines().filter(|row| !row.is_empty()) {
        let columns: Vec<&str> = row.split(" | ").map(str::trim).collect();
        let &[change, code, says] = columns.as_slice() else {
            panic!("not three columns: {row}")
        };
        let change = serde_json::from_str(change).unwrap_or_else(|e| panic!("{row}: {e}"));
        let conf = with(&good(plugin), &change);
        let code = code.parse().expect("a code");
        let says: Vec<&str> = says.split(" & ").collect();
        judge.judge([
            Bad::call(plugin, Add, &conf).fails(code, &says),
            Bad::call(plugin, Del, &conf),
        ]);
    }
}

#[test]
fn a_bridge_configuration_that_makes_no_sense_is_refused() {
    in_court(|judge, _| {
        warm(judge);
        judge_table(judge, "bridge", tables::BRIDGE);
    });
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    in_court(|judge, _| {
        warm(judge);
        judge_table(judge, "host-local", tables::HOST_LOCAL);
    });
}

#[test]
fn a_bridge_passes_on_what_its_address_management_refuses() {
    in_court(|judge, _| {
        warm(judge);
        judge_table(judge, "bridge", tables::HOST_LOCAL);
    });
}

#[test]
fn mappings_that_make_no_sense_are_refused() {
    in_court(|judge, _| judge_table(judge, "portmap", tables::PORTMAP));
}

#[test]
fn a_flannel_configuration_that_makes_no_sense_is_refused() {
    in_court(|judge, world| {
        world.exec("mkfifo /run/fifo");
        warm(judge);
        judge_table(judge, "flannel", tables::FLANNEL);
    });
}

/// A mapping whose address is of a family that the pod has none of is nobody's: nothing is done.
#[test]
fn a_result_of_the_other_family_maps_nothing_and_is_passed_on() {
    in_court(|judge, _| {
        warm(judge);
        let prev = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
            "ips": [{"interface": 0, "address": "fd22::5/64"}]});
        let mapping =
            json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.0.1"});
        let conf = with(
            &good("portmap"),
            &json!({"prevResult": prev, "runtimeConfig": {"portMappings": [mapping]}}),
        );
        judge.judge([Add, Check, Del].map(|verb| Bad::call("portmap", verb, &conf).borne()));

        let old = json!({"cniVersion": "1.1.0", "ip4": {"ip": "10.22.0.5/24"}});
        let mixed =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "6", "address": "10.22.0.5/24"}]});
        for prev in [old, mixed] {
            let conf = with(&good("portmap"), &json!({"prevResult": prev}));
            judge.judge([Bad::call("portmap", Del, &conf).borne()]);
            judge.judge([
                Bad::call("portmap", Add, &conf),
                Bad::call("portmap", Del, &conf).borne(),
            ]);
        }
    });
}

#[test]
fn a_lease_that_is_missing_or_makes_no_sense_is_told() {
    in_court(|judge, _| {
        let file = "/run/flannel/subnet.env";
        let add = |code, says: &str| {
            Bad::call("flannel", Add, &good("flannel")).fails(code, &[file, says])
        };
        let status = || Bad::call("flannel", Status, &good("flannel")).fails(50, &[file]);
        let del = || Bad::call("flannel", Del, &good("flannel")).borne();
        judge.judge([add(11, "no such file"), status(), del()]);
        let network = "FLANNEL_NETWORK=10.1.0.0/16";
        for (text, code, says) in [
            ("", 11, "FLANNEL_NETWORK"),
            ("nonsense", 11, "FLANNEL_MTU"),
            ("\0\0\n\u{1f980}", 11, "FLANNEL_IPMASQ"),
            (network, 11, "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=x", 6, "FLANNEL_SUBNET"),
            ("FLANNEL_MTU=-5", 6, "FLANNEL_MTU"),
            ("FLANNEL_NETWORK=10.1.0.0/16,x", 6, "FLANNEL_NETWORK"),
        ] {
            fs::create_dir_all("/run/flannel").unwrap();
            fs::write(file, text).unwrap();
            judge.look_again();
            judge.judge([add(code, says), status(), del()]);
        }
    });
}

#[test]
fn check_says_what_is_missing() {
    in_court(|judge, _| {
        lease();
        judge.look_again();
        let check = |plugin, change| Bad::call(plugin, Check, &with(&good(plugin), &change));
        let foreign = good("portmap")["prevResult"].clone();
        judge.judge([
            check("bridge", json!({"ipam": {}})).fails(7, &["prevResult"]),
            check("bridge", json!({"prevResult": 5})).fails(6, &["prevResult"]),
            check("bridge", json!({"ipam": {}, "prevResult": foreign})).fails(999, &["cni0"]),
            check("host-local", json!({})).fails(999, &["bad"]),
            check("portmap", json!({"prevResult": null})).fails(7, &["prevResult"]),
            check("portmap", json!({})).fails(999, &["ports are not mapped"]),
            check("flannel", json!({})).fails(999, &["bad"]),
        ]);
    });
}

#[test]
fn attachments_that_make_no_sense_collect_nothing() {
    in_court(|judge, _| {
        // `loopback` has nothing to collect, and reads none.
        for plugin in PLUGINS.into_iter().filter(|plugin| *plugin != "loopback") {
            for (valid, code) in [
                (json!(5), 6),
                (json!("x"), 6),
                (json!({}), 6),
                (json!([5]), 6),
                (json!([{}]), 7),
                (json!([{"containerID": 5, "ifname": "eth0"}]), 6),
            ] {
                let conf = with(&good(plugin), &json!({"cni.dev/valid-attachments": valid}));
                judge.judge([Bad::call(plugin, Gc, &conf).fails(code, &["attachments"])]);
            }
        }
    });
}

/// What pods share is made by the first of them, and stays.
fn warm(judge: &mut Judge<'_>) {
    lease();
    for plugin in PLUGINS {
        for verb in [Add, Del] {
            judge.run(&Bad::call(plugin, verb, &good(plugin)).borne());
        }
    }
    judge.look_again();
}

fn lease() {
    fs::create_dir_all("/run/flannel").expect("make a directory");
    let lease = "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET=10.22.3.1/24\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write("/run/flannel/subnet.env", lease).expect("write a lease");
}
