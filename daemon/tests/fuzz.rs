//! Every reader of bytes that come from elsewhere bears them.

#[path = "../../fuzz/stable.rs"]
mod stable;

use weft_daemon::fuzz::TARGETS;

#[test]
fn every_reader_bears_its_seeds_and_what_is_made_of_them() {
    stable::every_reader_bears_its_seeds_and_what_is_made_of_them(TARGETS);
}

#[test]
fn every_reader_is_a_target_of_cargo_fuzz_with_seeds() {
    stable::every_reader_is_a_target_of_cargo_fuzz_with_seeds("weft_daemon::fuzz", TARGETS);
}
