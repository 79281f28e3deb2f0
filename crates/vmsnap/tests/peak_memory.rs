//! How much memory the binary takes. A test program of its own: the system keeps one peak for all
//! children of a process.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and says where"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// The sizes of the guests.
const SMALL: u64 = 256 * MIB;
const LARGE: u64 = 2048 * MIB;

/// Bytes of each that are not zero.
const DATA: u64 = 32 * MIB;

/// What all but the guest may take.
const FIXED: u64 = 64 * MIB;

/// Buffers that were there for the large guest and not yet for the small one; the writer has
/// 16 MiB of them, whatever the guest.
const SLACK: u64 = 8 * MIB;

/// A raw memory file of `len` bytes with data here and there; other data for another `seed`.
fn memory_file(path: &Path, len: u64, seed: u64) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut piece = vec![0; 64 << 10];
    let pieces = DATA / piece.len() as u64;
    for at in (0..pieces).map(|index| index * (len / pieces)) {
        for word in piece.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        file.write_all_at(&piece, at / PAGE * PAGE).unwrap();
    }
}

/// The largest peak of all children so far, in bytes.
fn peak() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    u64::try_from(usage.max_rss()).unwrap() * 1024
}

/// Imports a full snapshot and two diffs of a guest of `len` bytes, in each layout and engine, and
/// gives the peak.
fn take(root: &Path, len: u64) -> u64 {
    let run = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_vmsnap"))
            .current_dir(root)
            .args(["--store", "store", "--quiet"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(run.unwrap().success(), "{arguments:?}");
    };
    let vm = format!("vm-{len}");
    let import = ["import", vm.as_str(), "--memory", "memory"];
    let import = |more: &[&str]| run(&[&import[..], more].concat());
    let latest = format!("{vm}@latest");
    let diff = ["--parent", &latest, "--dirty", "dirty"];
    std::fs::write(
        root.join("dirty"),
        vec![0xff; usize::try_from(len / PAGE / 8).unwrap()],
    )
    .unwrap();
    memory_file(&root.join("memory"), len, 1);
    import(&[]);
    memory_file(&root.join("memory"), len, 2);
    import(&[&diff[..], &["--layout", "packed", "--dedup"]].concat());
    import(&[&diff[..], &["--layout", "sparse", "--engine", "buffered"]].concat());
    run(&["restore", &latest, "--memory", "restored"]);
    run(&["verify", &latest]);
    std::fs::remove_file(root.join("restored")).unwrap();
    peak()
}

// spec: MEM-10
#[test]
fn memory_taken_does_not_grow_with_the_guest() {
    let directory = tempfile::tempdir().unwrap();
    let small = take(directory.path(), SMALL);
    assert!(
        small <= FIXED,
        "{} MiB for {} MiB",
        small / MIB,
        SMALL / MIB
    );
    let large = take(directory.path(), LARGE);
    let bits = |len: u64| len / PAGE * 3 / 8;
    eprintln!("peak {} KiB, then {} KiB", small >> 10, large >> 10);
    assert!(large <= FIXED + bits(LARGE), "{} MiB", large / MIB);
    assert!(
        large - small <= bits(LARGE - SMALL) + SLACK,
        "{} MiB more for {} MiB more",
        (large - small) / MIB,
        (LARGE - SMALL) / MIB
    );
}
