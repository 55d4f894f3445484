//! The fuzz targets on a stable compiler, for the tests of the crates that they are of: every
//! reader is given its seeds, and some thousands of things made of them. The same every time;
//! `make fuzz` goes further.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(crate) type Targets = [(&'static str, fn(&[u8]))];

/// WEFT_FUZZ_ROUNDS asks for more.
const ROUNDS: u32 = 10_000;
/// Per input, and many times what any takes.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) fn every_reader_bears_its_seeds_and_what_is_made_of_them(targets: &Targets) {
    let asked = std::env::var("WEFT_FUZZ_ROUNDS").ok();
    let rounds = asked.map_or(ROUNDS, |number| number.parse().unwrap());
    for (name, body) in targets {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let made = (0..rounds).map(|_| mutant(&seeds, &mut dice));
        for input in seeds.iter().cloned().chain(made) {
            let started = Instant::now();
            let borne = catch_unwind(AssertUnwindSafe(|| body(&input)));
            let text = String::from_utf8_lossy(&input);
            assert!(borne.is_ok(), "{name} panics at {text:?}, {input:?}");
            assert!(started.elapsed() < SLOW, "{name} is slow at {text:?}");
        }
    }
}

/// `place` is what the targets call, such as `weft_plugins::fuzz`.
pub(crate) fn every_reader_is_a_target_of_cargo_fuzz_with_seeds(place: &str, targets: &Targets) {
    let names: BTreeSet<String> = targets.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        listed("fuzz_targets", |text| text
            .contains(&format!("{place}::run("))),
        names
    );
    assert_eq!(listed("fuzz_targets", |_| true), listed("seeds", |_| true));
    let manifest = fs::read_to_string(directory("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = directory("fuzz_targets").join(format!("{name}.rs"));
        let text = fs::read_to_string(target).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", data)")), "{text}");
    }
}

fn listed(of: &str, which: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let paths = fs::read_dir(directory(of))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let wanted = paths.filter(|path| which(&fs::read_to_string(path).unwrap_or_default()));
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    wanted.map(|path| stem(&path)).collect()
}

fn directory(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("fuzz")
        .join(of)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory("seeds").join(target))
        .unwrap_or_else(|why| panic!("the seeds of {target}: {why}"))
        .map(|entry| entry.expect("a seed").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).expect("a seed"))
        .collect()
}

/// A seed, changed in a few places (mostly early ones, where a packet has its headers), or pieces
/// of two.
fn mutant(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = dice.one_of(seeds).clone();
    for _ in 0..=dice.below(4) {
        let reach = if dice.below(4) > 0 { 100 } else { usize::MAX };
        let at = dice.below(bytes.len().min(reach) + 1);
        let end = at + dice.below(bytes.len() - at + 1).min(64);
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..end, [])),
            2 => {
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            3 => {
                let other = dice.one_of(seeds);
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let word = *dice.one_of(&WORDS);
                drop(bytes.splice(at..end, word.bytes()));
            }
            5 => {
                let (number, length) = (*dice.one_of(&NUMBERS), *dice.one_of(&[1, 2, 4]));
                let end = (at + length).min(bytes.len());
                // Of this machine's order, or of the network's.
                let number = match dice.below(2) {
                    0 => number.to_ne_bytes()[..length].to_vec(),
                    _ => number.to_be_bytes()[4 - length..].to_vec(),
                };
                drop(bytes.splice(at..end, number));
            }
            _ => {
                let noise = u8::try_from(dice.below(256)).unwrap_or_default();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= noise;
                }
            }
        }
    }
    bytes
}

const WORDS: [&str; 20] = [
    "null",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "65536",
    "18446744073709551616",
    "1e999",
    "true",
    "\"10.1.2.3/33\"",
    "\"::/0\"",
    "\"\\u0000\"",
    "\"\u{1f980}\"",
    "\n",
    "=",
    ";",
    "\r\n",
    "CNI-",
    "-A CNI-DN-",
];
const NUMBERS: [u32; 18] = [
    0,
    1,
    3,
    4,
    7,
    8,
    15,
    16,
    17,
    20,
    40,
    0x7f,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
];

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let at = self.below(list.len());
        &list[at]
    }
}
