//! File systems that are full, or can't be written: in a mount namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::process::Command;

use common::{Node, has_program, one_range, ours, skip};
use serde_json::Value;

#[test]
fn a_full_disk_is_an_input_output_error_and_leaves_nothing() {
    let test = "a_full_disk_is_an_input_output_error_and_leaves_nothing";
    let Some(said) = in_tmpfs(
        test,
        "size=64k",
        "
        run ADD a; dd if=/dev/zero of=$DIR/fill bs=4096 2>/dev/null || true
        run ADD b; ls $DIR/net
        rm $DIR/fill; run ADD c; run DEL a; run DEL c; ls $DIR/net",
    ) else {
        return;
    };
    assert_eq!(codes(&said), [0, 5, 0, 0, 0], "{said}");
    assert!(
        said.contains("No space left on device") && said.contains("make room"),
        "{said}"
    );
    assert!(!said.contains("10.0.0.3\n"), "{said}");
    assert!(!said.contains(".new"), "{said}");
}

#[test]
fn a_disk_without_inodes_is_an_input_output_error_too() {
    let test = "a_disk_without_inodes_is_an_input_output_error_too";
    // The directory itself, the network's, the lock, and nothing more.
    let Some(said) = in_tmpfs(test, "nr_inodes=3", "run ADD a; run DEL a; ls $DIR/net") else {
        return;
    };
    assert_eq!(codes(&said), [5, 0], "{said}");
    assert!(!said.contains("10.0.0.2\n"), "{said}");
}

#[test]
fn a_read_only_directory_is_an_error_only_where_something_must_be_written() {
    let test = "a_read_only_directory_is_an_error_only_where_something_must_be_written";
    let Some(said) = in_tmpfs(
        test,
        "size=1m",
        "
        run ADD a; mount -o remount,ro $DIR
        run ADD b; run CHECK a; run DEL unknown; run DEL a; run STATUS x
        mount -o remount,rw $DIR; run DEL a; run STATUS x",
    ) else {
        return;
    };
    assert_eq!(codes(&said), [0, 5, 0, 0, 5, 50, 0, 0], "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}

#[test]
fn a_read_only_place_without_a_directory_is_told_as_such() {
    let test = "a_read_only_place_without_a_directory_is_told_as_such";
    let Some(said) = in_tmpfs(test, "ro", "run ADD a; run DEL a; run STATUS x") else {
        return;
    };
    assert_eq!(codes(&said), [5, 0, 50], "{said}");
}

/// Runs the script with `$DIR` a fresh tmpfs; `run VERB ID` calls the plugin. Everything said is
/// the answer, and after each call a line with its code.
fn in_tmpfs(test: &str, options: &str, script: &str) -> Option<String> {
    if !has_program(test, "unshare") {
        return None;
    }
    let node = Node::new(one_range("10.0.0.0/29"));
    let mut conf: Value = node.conf();
    conf["cniVersion"] = "1.1.0".into();
    let script = format!(
        "set -e; mount -t tmpfs -o {options} tmpfs $DIR; echo mounted
         run() {{
           CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_IFNAME=eth0 CNI_NETNS=/none CNI_PATH=/none $PLUGIN <<STOP || true
{conf}
STOP
           echo '{}'
         }}
         {script}",
        END.trim_end()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command
        .env("DIR", node.dir())
        .env("PLUGIN", ours())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    if !said.starts_with("mounted") {
        skip(test, "a user namespace in which a tmpfs can be mounted");
        return None;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    Some(said)
}

/// The code of each call, in order: 0 where all went well.
fn codes(said: &str) -> Vec<u64> {
    let (answered, _) = said.rsplit_once(END).unwrap_or_default();
    let code = |answer: &str| {
        let document = answer.find("{\n").map_or("{}", |start| &answer[start..]);
        let answer: Value = serde_json::from_str(document).unwrap();
        answer["code"].as_u64().unwrap_or(0)
    };
    answered.split(END).map(code).collect()
}

const END: &str = "-- end of answer\n";
