//! What it takes to be started and say a sentence.
use std::path::PathBuf;

use weft_netns::Cni;

use crate::process::Program;
use crate::report::{Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "start";

const ROUNDS: u16 = 101;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let peers = [
        ("weft", Cni::weft_dir()),
        ("go", PathBuf::from("/usr/lib/cni")),
    ];
    for _ in 0..bench.rounds(ROUNDS) {
        for (who, dir) in &peers {
            let program = Program::new(dir.join("bridge"))
                .env("CNI_COMMAND", "VERSION")
                .stdin(r#"{"cniVersion":"1.0.0"}"#);
            let cost = program.run();
            report.sample(NAME, "VERSION", who, Unit::Milliseconds, ms(cost.wall));
            report.sample(NAME, "VERSION CPU", who, Unit::Milliseconds, ms(cost.cpu));
        }
    }
}
