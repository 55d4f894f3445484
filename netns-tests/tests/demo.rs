//! What `make demo` shows is true, for root and for everybody.
use weft_netns::{Cmd, Need, skip_unless};

fn demo() -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_demo"))
}

fn shows_that_all_is_gone(cmd: &Cmd) {
    let shown = cmd.run().ok().stdout;
    for line in [
        "links in the pods       none",
        "reserved addresses      none",
        "your machine",
    ] {
        assert!(shown.contains(line), "{line} is missing from\n{shown}");
    }
}

#[test]
fn the_demo_runs_and_leaves_nothing() {
    if skip_unless(&[Need::UserNamespaces]) {
        shows_that_all_is_gone(&demo());
    }
}

#[test]
fn the_demo_needs_no_root() {
    if skip_unless(&[Need::UserNamespaces]) {
        shows_that_all_is_gone(&demo().env("WEFT_ROOTLESS", "1"));
    }
}
