//! Snapshots that stand on each other: import, restore, delete, and what each says.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use crate::sandbox::{PAGE, Sandbox, bitmap, id, page, pattern};

const PAGES: usize = 300;

// spec: CLI-15
// spec: CLI-22
#[test]
fn a_full_and_three_diffs_restore_byte_for_byte() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(PAGES, 1);
    let mut images = vec![memory.clone()];
    let full = sandbox.import("web", &memory, &["--name", "base"]);
    assert_eq!(full["pages"]["present"], 240);
    assert_eq!(full["pages"]["zero"], 60);
    assert_eq!(full["pages"]["inherited"], 0);
    assert_eq!(full["layout"], "sparse");
    assert!(full["parent"].is_null());
    let mut parent = id(&full);
    for round in 1..=3_u8 {
        let dirty = [0, 7, 64, 100 + usize::from(round), PAGES - 1];
        for &at in &dirty {
            page(&mut memory, at).fill(round);
        }
        page(&mut memory, 64).fill(0);
        sandbox.write("dirty", &bitmap(PAGES, &dirty));
        let diff = sandbox.import("web", &memory, &["--dirty", "dirty", "--parent", &parent]);
        assert_eq!(diff["parent"], parent.as_str());
        assert_eq!(diff["pages"]["present"], 4);
        assert_eq!(diff["pages"]["zero"], 1);
        assert_eq!(diff["pages"]["inherited"], PAGES - 5);
        assert_eq!(diff["pages"]["total"], PAGES);
        parent = id(&diff);
        images.push(memory.clone());
    }
    let listed = sandbox.json(&["list", "web"]);
    let snapshots = listed["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 4);
    for (snapshot, image) in snapshots.iter().zip(&images) {
        let restored = sandbox.restored(snapshot["id"].as_str().unwrap());
        assert!(restored == *image, "{snapshot} differs");
    }
    assert!(sandbox.restored("web/BASE") == images[0]);
    assert!(sandbox.restored("web@latest") == images[3]);
    let verified = sandbox.json(&["verify"]);
    assert_eq!(verified["ok"], true);
    assert_eq!(verified["snapshots"], 4);
}

// spec: CLI-14
#[test]
fn a_bitmap_decides_and_the_rest_of_the_file_does_not() {
    let sandbox = Sandbox::new();
    let old = pattern(20, 1);
    let parent = id(&sandbox.import("vm", &old, &[]));
    // Every page differs, one is marked: only that one is taken.
    let new = pattern(20, 2);
    let mut bits = bitmap(20, &[7]);
    for rounded in [false, true] {
        if rounded {
            bits.resize(8, 0);
        }
        sandbox.write("dirty", &bits);
        let diff = sandbox.import("vm", &new, &["--dirty", "dirty", "--parent", &parent]);
        assert_eq!(diff["pages"]["present"], 1);
        let mut expected = old.clone();
        page(&mut expected, 7).copy_from_slice(&new[7 * PAGE..][..PAGE]);
        assert!(sandbox.restored(&id(&diff)) == expected);
    }
}

// spec: CLI-15
#[test]
fn marked_pages_that_equal_the_parent_are_inherited_only_with_dedup() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(40, 3);
    let parent = id(&sandbox.import("vm", &memory, &[]));
    page(&mut memory, 11).fill(9);
    sandbox.write("dirty", &bitmap(40, &[1, 2, 11]));
    let marked = ["--dirty", "dirty", "--parent", &parent];
    let plain = sandbox.import("vm", &memory, &marked);
    assert_eq!(plain["pages"]["present"], 3);
    let deduplicated = sandbox.import("vm", &memory, &[&marked[..], &["--dedup"]].concat());
    assert_eq!(deduplicated["pages"]["present"], 1);
    assert_eq!(deduplicated["pages"]["inherited"], 39);
    let compared = sandbox.import("vm", &memory, &["--parent", &parent]);
    assert_eq!(compared["pages"]["present"], 1);
    for document in [&plain, &deduplicated, &compared] {
        assert!(sandbox.restored(&id(document)) == memory);
    }
}

// spec: CLI-12
#[test]
fn regions_are_taken_from_where_they_lie_in_the_file() {
    let sandbox = Sandbox::new();
    let memory = pattern(30, 4);
    let regions = ["--regions", "0x100000000:40K@0,0:80K@40K"];
    let imported = sandbox.import("vm", &memory, &regions);
    assert_eq!(imported["pages"]["total"], 30);
    let (high, low) = memory.split_at(10 * PAGE);
    assert!(sandbox.restored(&id(&imported)) == [low, high].concat());
}

// spec: CLI-13
#[test]
fn holes_in_the_memory_file_are_zero_pages() {
    let sandbox = Sandbox::new();
    let file = fs::File::create(sandbox.path("memory")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[7; PAGE], 512 << 10).unwrap();
    let imported = sandbox.json(&["import", "vm", "--memory", "memory"]);
    assert_eq!(imported["pages"]["present"], 1);
    assert_eq!(imported["pages"]["zero"], 255);
    assert!(imported["bytes_stored"].as_u64().unwrap() < 128 << 10);
    assert!(sandbox.restored(&id(&imported)) == sandbox.read("memory"));
    let blocks = fs::metadata(sandbox.path("restored")).unwrap().blocks();
    assert!(blocks * 512 < 64 << 10, "the output is not sparse");
}

// spec: CLI-19
// spec: CLI-25
#[test]
fn state_comes_back_as_it_was_given() {
    let sandbox = Sandbox::new();
    sandbox.write("state", b"opaque \0 bytes");
    let memory = pattern(4, 1);
    let opaque = sandbox.import("vm", &memory, &["--state", "state", "--config", "state"]);
    sandbox.json(&["restore", &id(&opaque), "--memory", "m1", "--state", "s1"]);
    assert_eq!(sandbox.read("s1"), b"opaque \0 bytes");

    let own = format!("store/snapshots/{}/state.vms", id(&opaque));
    let copied = sandbox.import("vm", &memory, &["--state", &own]);
    sandbox.json(&["restore", &id(&copied), "--memory", "m2", "--state", "s2"]);
    assert_eq!(sandbox.read("s2"), b"opaque \0 bytes");

    let mut damaged = sandbox.read(&own);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    sandbox.write("damaged", &damaged);
    let line = ["import", "vm", "--memory", "memory", "--state", "damaged"];
    sandbox.refused(&line, 4);

    let none = sandbox.import("vm", &memory, &[]);
    let line = ["restore", &id(&none), "--memory", "m3", "--state", "s3"];
    sandbox.refused(&line, 3);
}

// spec: CLI-27
#[test]
fn a_deleted_parent_still_serves_its_children_and_comes_back() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(50, 5);
    let full = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    page(&mut memory, 3).fill(1);
    let diff = id(&sandbox.import("vm", &memory, &["--parent", "vm/base"]));

    let before = sandbox.listing();
    let plan = sandbox.json(&["delete", "vm/base", "--dry-run"]);
    assert_eq!(plan["dry_run"], true);
    assert_eq!(plan["needed_by"][0], diff.as_str());
    assert_eq!(sandbox.listing(), before);

    sandbox.json(&["delete", "vm/base"]);
    assert_eq!(
        sandbox.json(&["list"])["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        sandbox.json(&["trash"])["snapshots"][0]["id"],
        full.as_str()
    );
    sandbox.refused(&["restore", "vm/base", "--memory", "gone"], 3);
    assert!(sandbox.restored(&diff) == memory);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);

    sandbox.json(&["undelete", &full]);
    assert_eq!(sandbox.listing(), before);
    assert!(sandbox.restored(&full) == pattern(50, 5));
}

// spec: CLI-22
// spec: CLI-24
#[test]
fn an_output_is_private_and_replaces_nothing() {
    let sandbox = Sandbox::new();
    let memory = pattern(8, 6);
    let one = id(&sandbox.import("vm", &memory, &[]));
    sandbox.json(&["restore", &one, "--memory", "an output.img"]);
    assert!(sandbox.read("an output.img") == memory);
    let mode = fs::metadata(sandbox.path("an output.img"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    sandbox.refused(&["restore", &one, "--memory", "an output.img"], 12);
}

// spec: CLI-22
// spec: CLI-24
// spec: CLI-28
#[test]
fn damage_is_found_before_an_output_has_its_name() {
    let sandbox = Sandbox::new();
    let memory = pattern(64, 7);
    let one = id(&sandbox.import("vm", &memory, &[]));
    let data = sandbox.path(&format!("store/snapshots/{one}/memory.img"));
    fs::set_permissions(&data, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&data).unwrap();
    file.write_all_at(&[0xff], 33 * PAGE as u64 + 5).unwrap();
    let refused = sandbox.refused(&["restore", &one, "--memory", "out"], 4);
    let path = refused["error"]["path"].as_str().unwrap_or_default();
    assert!(path.ends_with("memory.img"), "{refused}");

    let run = sandbox.run(&["verify", "--json"]);
    assert_eq!(run.code, 4);
    let document = run.document();
    assert_eq!(document["ok"], false);
    assert_eq!(
        document["errors"].as_array().unwrap().len(),
        1,
        "{document}"
    );
}

// spec: CLI-03
// spec: CLI-04
#[test]
fn a_reference_means_one_snapshot_or_nothing() {
    let sandbox = Sandbox::new();
    let memory = pattern(2, 8);
    let first = id(&sandbox.import("vm", &memory, &["--name", "One"]));
    let second = id(&sandbox.import("vm", &memory, &[]));
    for reference in [&first, &first[24..], "vm/one", "VM/ONE"] {
        let shown = sandbox.json(&["show", reference]);
        assert_eq!(shown["id"], first.as_str(), "{reference}");
    }
    let common = first
        .bytes()
        .zip(second.bytes())
        .take_while(|(one, other)| one == other)
        .count();
    assert!(common > 0, "ids made in one second begin alike");
    sandbox.refused(&["show", &first[..common]], 2);
    sandbox.refused(&["show", "vm/two"], 3);
    sandbox.refused(&["show", "other@latest"], 3);
    let again = ["import", "vm", "--memory", "memory", "--name", "ONE"];
    sandbox.refused(&again, 12);
}

// spec: CLI-15
// spec: CST-04
#[test]
fn pages_that_are_not_marked_are_inherited_also_where_nearly_all_are() {
    let sandbox = Sandbox::new();
    let file = fs::File::create(sandbox.path("memory")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[7; PAGE], 9 * PAGE as u64).unwrap();
    let parent = id(&sandbox.json(&["import", "vm", "--memory", "memory"]));
    // What some VMMs write: a file of the dirty pages alone, with holes for all others.
    let file = fs::File::create(sandbox.path("memory")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[8; PAGE], 10 * PAGE as u64).unwrap();
    let mut dirty = vec![0xff; 2048];
    dirty[9 / 8] &= !(1 << (9 % 8));
    sandbox.write("dirty", &dirty);
    let marked = ["--dirty", "dirty", "--parent", &parent];
    let line = [&["import", "vm", "--memory", "memory"], &marked[..]].concat();
    let diff = sandbox.json(&line);
    assert_eq!(diff["pages"]["inherited"], 1);
    assert_eq!(diff["pages"]["present"], 1);
    let mut restored = sandbox.restored(&id(&diff));
    assert!(page(&mut restored, 9).iter().all(|&byte| byte == 7));
    assert!(page(&mut restored, 10).iter().all(|&byte| byte == 8));
}
