//! The bodies of the fuzz targets, replayed without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use snapshot_checks::fuzz::{Body, TARGETS};
use snapshot_checks::golden;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

#[test]
fn golden_files_and_mutations_of_them_break_no_promise() {
    for (name, body) in TARGETS {
        for file in golden::valid()
            .unwrap()
            .iter()
            .chain(&golden::corrupt().unwrap())
        {
            body(&file.bytes);
            replay_mutations(name, body, &file.bytes);
        }
    }
}

#[test]
fn sequences_of_operations_break_no_promise() {
    let mut random = Random(1);
    for (name, body) in TARGETS {
        for _ in 0..300 {
            let len = random.below(400);
            let bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
            replay(name, body, &bytes);
        }
    }
}

#[test]
fn what_once_failed_does_not_fail_again() {
    for (name, body) in TARGETS {
        let folder = fuzz_folder().join("regressions").join(name);
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            body(&fs::read(entry.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn every_body_is_a_target_and_every_target_a_body() {
    let mut targets: Vec<String> = fs::read_dir(fuzz_folder().join("fuzz_targets"))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    targets.sort();
    assert_eq!(targets, TARGETS.map(|(name, _)| name));
    for name in targets {
        let path = fuzz_folder().join(format!("fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(path).unwrap();
        assert!(
            text.contains(&format!("snapshot_checks::fuzz::fuzz_{name}(")),
            "{name}"
        );
    }
}

/// Changes a few bytes at a time, many times over.
fn replay_mutations(name: &str, body: Body, bytes: &[u8]) {
    let mut random = Random(bytes.len() as u64 + 1);
    for _ in 0..40 {
        let mut mutated = bytes.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(mutated.len());
            mutated[at] = random.byte();
        }
        replay(name, body, &mutated);
    }
}

fn replay(name: &str, body: Body, bytes: &[u8]) {
    let outcome = std::panic::catch_unwind(|| body(bytes));
    assert!(outcome.is_ok(), "{name} fails on {bytes:02x?}");
}

/// xorshift64*: the same inputs in every run.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()[7]
    }

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound
    }
}
