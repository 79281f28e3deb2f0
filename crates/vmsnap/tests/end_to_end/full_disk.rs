//! Space is freed on a disk that is full to its last block.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};

use serde_json::Value;
use snapshot_memory::skip::skip;

use crate::disk::Disk;
use crate::sandbox::{Sandbox, id, pattern};

/// A disk that is large enough for a reserve.
const OPTIONS: [&str; 5] = ["-t", "tmpfs", "-o", "size=96m", "tmpfs"];

/// Takes every byte that is left.
fn fill(disk: &Disk) {
    let mut filler = File::create(disk.path().join("filler")).unwrap();
    for len in [1 << 20, 4096, 1] {
        let bytes = vec![0xa5; len];
        loop {
            match filler.write_all(&bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn empty(disk: &Disk) {
    fs::remove_file(disk.path().join("filler")).unwrap();
}

fn collected(document: &Value) -> Vec<String> {
    let all = document["collected"].as_array().unwrap();
    all.iter().map(id).collect()
}

/// A store with one snapshot in use, and its memory.
fn store_on(disk: &Disk) -> (Sandbox, Vec<u8>) {
    let sandbox = Sandbox::within(disk.path());
    let memory = pattern(100, 1);
    sandbox.import("vm", &memory, &["--name", "live"]);
    (sandbox, memory)
}

/// Has a file superseded that is named still.
fn lay_out_anew(sandbox: &Sandbox) {
    for layout in ["packed", "sparse"] {
        sandbox.json(&["relayout", "vm/live", "--layout", layout]);
    }
}

fn deleted(sandbox: &Sandbox, seed: u64) -> String {
    let gone = id(&sandbox.import("vm", &pattern(200, seed), &[]));
    sandbox.json(&["delete", &gone]);
    gone
}

/// That the snapshot in use is there, byte for byte; it is restored to another disk.
fn is_whole(sandbox: &Sandbox, around: &Sandbox, memory: &[u8]) {
    let out = around.path("out");
    drop(fs::remove_file(&out));
    sandbox.json(&["restore", "vm/live", "--memory", out.to_str().unwrap()]);
    assert!(fs::read(out).unwrap() == memory);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}

// spec: GC-10
#[test]
fn a_collection_on_a_full_disk_gives_its_reserve_up_and_frees_all_that_it_can() {
    let around = Sandbox::new();
    let Some(disk) = Disk::mount(around.path("disk"), &OPTIONS) else {
        return skip("unprivileged", "no file system can be mounted here");
    };
    let (sandbox, memory) = store_on(&disk);
    let reserve = sandbox.path("store/reserve");
    sandbox.json(&["gc"]);
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 1 << 20);
    lay_out_anew(&sandbox);
    let gone = [2, 3].map(|seed| deleted(&sandbox, seed));
    let more = around.write("more", &pattern(4, 4));
    fill(&disk);
    is_whole(&sandbox, &around, &memory);
    let import = ["import", "vm", "--memory", more.to_str().unwrap()];
    sandbox.refused(&import, 7);
    let done = sandbox.json(&["gc"]);
    let mut found = collected(&done);
    found.sort();
    let mut expected = gone.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    // A placement had to be written to get rid of what it names.
    assert_eq!(done["reserve_was_used"], true, "{done}");
    assert_eq!(done["trimmed"].as_array().unwrap().len(), 1, "{done}");
    assert!(!reserve.exists());
    assert!(
        done["freed_bytes"].as_u64().unwrap() > 2 * 160 * 4096,
        "{done}"
    );
    is_whole(&sandbox, &around, &memory);
    // No number is given twice, although nobody else remembers those of the two.
    empty(&disk);
    let next = id(&sandbox.json(&import));
    assert_eq!(sandbox.json(&["show", &next])["seq"], 4);
    sandbox.json(&["gc"]);
    assert!(reserve.exists());
}

#[test]
fn a_collection_without_a_reserve_tells_what_it_cannot_and_the_next_one_does_it() {
    let around = Sandbox::new();
    let Some(disk) = Disk::mount(around.path("disk"), &OPTIONS) else {
        return skip("unprivileged", "no file system can be mounted here");
    };
    let (sandbox, memory) = store_on(&disk);
    let gone = deleted(&sandbox, 2);
    lay_out_anew(&sandbox);
    fill(&disk);
    let run = sandbox.run(&["gc", "--json"]);
    let told = run.document();
    assert_eq!(run.code, 11, "{run:?}");
    assert_eq!(collected(&told), [gone]);
    assert_eq!(told["problems"].as_array().unwrap().len(), 1, "{told}");
    is_whole(&sandbox, &around, &memory);
    // The blocks of the one that was collected are enough.
    let done = sandbox.json(&["gc"]);
    assert_eq!(done["trimmed"].as_array().unwrap().len(), 1, "{done}");
    is_whole(&sandbox, &around, &memory);
    empty(&disk);
    assert_eq!(sandbox.json(&["gc"])["freed_bytes"], 0);
}
