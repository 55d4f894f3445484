//! What each plugin says of itself, and to whom: programs parse these lines.
mod node;

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use weft_netns::{Attachment, Cni, Verb, in_world, skip_unless};

const PLUGINS: [&str; 5] = ["bridge", "host-local", "portmap", "loopback", "flannel"];
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

fn plugin(name: &str) -> Command {
    let mut command = Command::new(Cni::weft_dir().join(name));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("CNI_")) {
        command.env_remove(variable);
    }
    command
}

/// nerdctl reads `CNI <name> plugin v<semver>` from standard error, of a call without a command.
#[test]
fn without_a_command_a_plugin_tells_its_name_and_version_on_standard_error() {
    for name in PLUGINS {
        let output = plugin(name)
            .stdin(Stdio::null())
            .output()
            .expect("a plugin");
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{name}"
        );
        let told = String::from_utf8(output.stderr).expect("text");
        let mut lines = told.lines();
        let about = lines.next().expect("a line");
        let version = about
            .strip_prefix(&format!("CNI {name} plugin v"))
            .expect(about);
        let numbers: Vec<u32> = version
            .split('+')
            .next()
            .expect("a version")
            .split('.')
            .map(|number| number.parse().expect("a number"))
            .collect();
        assert!(numbers.len() == 3 && numbers >= vec![1, 9, 1], "{about}");
        let versions = format!("CNI protocol versions supported: {}", VERSIONS.join(", "));
        assert_eq!(lines.next(), Some(versions.as_str()));
    }
}

/// CRI-O asks every plugin at load, with nothing on standard input and no patience.
#[test]
fn version_is_answered_in_one_line_without_waiting_for_input() {
    for name in PLUGINS {
        let mut child = plugin(name)
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a plugin");
        // Kept open: who waits for its end waits for ever.
        let _open = child.stdin.take();
        let mut answer = String::new();
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut answer).expect("an answer");
        assert!(child.wait().expect("an end").success());
        assert_eq!(answer.lines().count(), 1, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(
            answer,
            json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})
        );
    }
}

#[test]
fn a_verb_that_a_version_does_not_know_is_told_so() {
    if !skip_unless(&node::LOOK) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod);
        for name in PLUGINS {
            for (verb, version) in [
                (Verb::Check, "0.3.1"),
                (Verb::Gc, "1.0.0"),
                (Verb::Status, "1.0.0"),
            ] {
                let conf = json!({"cniVersion": version, "name": "net", "type": name});
                let failure = Cni::weft().call(name, verb, &who, &conf).failure();
                assert_eq!(failure.code, 1, "{name} {}: {failure:?}", verb.name());
                let told = format!("config version does not allow {}", verb.name());
                assert_eq!(failure.msg, told);
            }
        }
    });
}

/// The node's own namespace is no pod's, and is found out before anything is done in it.
#[test]
fn a_pod_in_the_nodes_own_namespace_is_refused_before_anything_is_made() {
    if !skip_unless(&node::LOOK) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod).netns("/proc/self/ns/net");
        let before = weft_netns::Watch::node().take();
        for verb in [Verb::Add, Verb::Del] {
            let conf = node::bridge_conf("1.0.0", json!({}));
            let failure = Cni::weft().call("bridge", verb, &who, &conf).failure();
            assert_eq!(failure.code, 8, "{failure:?}");
        }
        before.assert_same(&weft_netns::Watch::node().take(), "after both refusals");
    });
}

#[test]
fn under_a_name_that_is_none_the_executable_tells_its_names() {
    let output = plugin("weft-cni").output().expect("the executable");
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(PLUGINS.iter().all(|name| told.contains(name)), "{told}");
}
