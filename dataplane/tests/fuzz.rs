//! The fuzz targets on a stable compiler: every reader is given its seeds, and some thousands of
//! things made of them. The same every time; WEFT_FUZZ_ROUNDS makes it more, and `make fuzz` goes
//! further.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_dataplane::packet::fuzz::TARGETS;

const ROUNDS: u32 = 10_000;
/// Per input, and many times what any takes.
const SLOW: Duration = Duration::from_secs(1);

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

#[test]
fn every_reader_bears_its_seeds_and_what_is_made_of_them() {
    let rounds = std::env::var("WEFT_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    for (name, body) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let made = (0..rounds).map(|_| mutant(&seeds, &mut dice));
        for input in seeds.iter().cloned().chain(made) {
            let started = Instant::now();
            let borne = catch_unwind(AssertUnwindSafe(|| body(&input)));
            assert!(borne.is_ok(), "{name} panics at {input:?}");
            assert!(started.elapsed() < SLOW, "{name} is slow at {input:?}");
        }
    }
}

#[test]
fn every_reader_is_a_target_of_cargo_fuzz() {
    let manifest = fs::read_to_string(directory("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = directory("fuzz_targets").join(format!("{name}.rs"));
        let text = fs::read_to_string(target).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", data)")), "{text}");
    }
}

/// A seed, changed in a few places: mostly in the first hundred bytes, where the headers are.
fn mutant(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(4) {
        let reach = if dice.below(4) > 0 { 100 } else { usize::MAX };
        let at = dice.below(bytes.len().min(reach) + 1);
        let end = at + dice.below(bytes.len() - at + 1).min(64);
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            3 => {
                let other = &seeds[dice.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
            4 => {
                let number = NUMBERS[dice.below(NUMBERS.len())].to_be_bytes();
                let end = (at + 2).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            _ => {
                let noise = u8::try_from(dice.below(256)).expect("a byte");
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= noise;
                }
            }
        }
    }
    bytes
}

const NUMBERS: [u16; 10] = [0, 1, 7, 8, 20, 40, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % limit.max(1)
    }
}
