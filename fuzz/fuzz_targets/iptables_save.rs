#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_plugins::fuzz::run("iptables_save", data));
