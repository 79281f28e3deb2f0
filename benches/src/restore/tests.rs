use snapshot_memory::skip::skip;
use snapshot_memory::{UffdContext, UffdOptions};

use super::ours::{Recipe, Shared};
use super::subject::{Chain, Subject};
use super::touch::{GuestWords, Reading, TouchJob, Way};
use super::*;
use crate::clones::{Cloned, LiveClone};
use crate::kvm;
use crate::machine_code::{SECOND, WRITTEN};

const LEN: u64 = 8 << 20;

const DEPTH: usize = 3;

/// Ways that every host has, and those that need userfaultfd.
const PLAIN: [Way; 6] = [
    Way::MapPrivate,
    Way::MapPrivateRandom,
    Way::Eager,
    Way::Ours(Recipe::Eager),
    Way::Ours(Recipe::Mapped),
    Way::Ours(Recipe::Background),
];
const SERVED: [Way; 2] = [Way::OnePage, Way::Ours(Recipe::Served)];

/// A chain in a directory that goes away with it.
fn chain() -> (tempfile::TempDir, Chain) {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::build(&dir.path().join("store"), LEN, DEPTH).unwrap();
    (dir, chain)
}

fn ways() -> Vec<Way> {
    let mut ways = PLAIN.to_vec();
    match UffdContext::new(UffdOptions::default()) {
        Ok(_) => ways.extend(SERVED),
        Err(error) => skip("uffd", &error.to_string()),
    }
    ways
}

fn sum(subject: &Subject, way: Way) -> u64 {
    let reading = Reading {
        pages: 500,
        choice: 7,
        order: 8,
    };
    let touched = TouchJob::new(subject, way, reading).run().unwrap();
    assert!(touched.ready_ms <= touched.first_ms && touched.first_ms <= touched.all_ms);
    touched.sum
}

#[test]
fn everybody_reads_the_same_bytes_at_every_depth() {
    let (_dir, chain) = chain();
    let mut sums = Vec::new();
    for depth in 1..=DEPTH {
        let subject = chain.subject(depth).unwrap();
        let found: Vec<u64> = ways().iter().map(|&way| sum(&subject, way)).collect();
        assert!(
            found.iter().all(|sum| *sum == found[0]),
            "{depth}: {found:?}"
        );
        sums.push(found[0]);
    }
    assert!(sums.windows(2).all(|pair| pair[0] != pair[1]), "{sums:?}");
}

#[test]
fn whoever_reads_something_else_ends_the_run() {
    let mut said = Said::default();
    said.compare("case", "ours", 1, 5).unwrap();
    said.compare("case", "peer", 2, 6).unwrap();
    let error = said.compare("case", "peer", 1, 6).unwrap_err();
    assert_eq!(error.to_string(), "peer read other bytes than ours in case");
}

#[test]
fn clones_of_a_process_run_the_program_of_the_snapshot() {
    if let Err(reason) = kvm::available() {
        return skip("kvm", &reason);
    }
    let (_dir, chain) = chain();
    let subject = chain.subject(DEPTH).unwrap();
    for way in ways() {
        let Way::Ours(recipe) = way else { continue };
        let shared = Shared::new(&subject.store, subject.id, recipe).unwrap();
        let written = |memory: &dyn GuestWords| {
            let word = memory.word(WRITTEN).unwrap();
            word.to_le_bytes()[0]
        };
        let untouched = written(&shared.clone_of().unwrap());
        let mut cloned = Cloned::default();
        let memory = Box::new(shared.clone_of().unwrap());
        let clone = LiveClone::new(memory, true, &mut cloned).unwrap();
        assert_eq!(written(clone.memory()), SECOND);
        assert!(cloned.machine_ms > 0.0 && cloned.first_ms > 0.0);
        // What one of them writes, the others do not see.
        assert_eq!(written(&shared.clone_of().unwrap()), untouched);
    }
}
