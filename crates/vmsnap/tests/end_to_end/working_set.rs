//! Working sets: recorded, shown, compared, carried along, dropped.

use std::fs;

use crate::sandbox::{Sandbox, id, page, pattern};

// spec: CLI-48
#[test]
fn a_working_set_is_recorded_shown_replaced_and_dropped() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(300, 5);
    page(&mut memory, 40).fill(0);
    let full = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    page(&mut memory, 7).fill(9);
    sandbox.import("vm", &memory, &["--parent", "vm/base", "--name", "next"]);
    sandbox.refused(&["working-set", "show", "vm/base"], 3);
    sandbox.refused(&["working-set", "drop", "vm/base"], 3);

    let list = sandbox.write("pages", b"# as touched\n200-209\n7\n40\n\n205-214\n");
    let list = list.to_str().unwrap();
    for (reference, generation) in [("vm/base", 2), ("vm/next", 2), ("vm/base", 3)] {
        let line = ["working-set", "record", reference, "--pages", list];
        let recorded = sandbox.json(&line);
        assert_eq!(recorded["generation"], generation, "{recorded}");
        assert_eq!(recorded["origin"], "named");
        assert_eq!(
            (&recorded["data_pages"], &recorded["zero_pages"]),
            (&13.into(), &4.into())
        );
        let shown = sandbox.json(&["working-set", "show", reference, "--check", "--runs"]);
        assert_eq!(shown["file"], format!("working-set.{generation}"));
        assert_eq!(shown["checked"], true);
        let first: Vec<_> = shown["listed"].as_array().unwrap().iter().collect();
        // In one segment sorted by address; each fifth page is zero.
        assert_eq!(first.len(), 8, "{shown}");
        assert_eq!(first[1]["is_zero"], true);
    }
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert!(sandbox.restored("vm/next") == memory);

    let bounded = [
        "working-set",
        "record",
        "vm/base",
        "--pages",
        list,
        "--max",
        "8K",
    ];
    let recorded = sandbox.json(&bounded);
    // Those touched first: 200, which is zero, 201 and 202.
    assert_eq!(
        (&recorded["data_pages"], recorded["left_out_pages"].as_u64()),
        (&2.into(), Some(14))
    );
    sandbox.json(&["working-set", "drop", "vm/base"]);
    sandbox.refused(&["working-set", "show", "vm/base"], 3);
    let folder = sandbox.path(&format!("store/snapshots/{full}"));
    let mut names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| !name.display().to_string().starts_with("working-set")));
}

// spec: CLI-48
#[test]
fn lists_that_name_no_pages_and_images_of_another_length_are_usage_errors() {
    let sandbox = Sandbox::new();
    let memory = pattern(20, 5);
    sandbox.import("vm", &memory, &["--name", "base"]);
    for text in ["20", "3-2", "x", "-1", "0-20"] {
        let list = sandbox.write("pages", text.as_bytes());
        let list = list.to_str().unwrap();
        sandbox.refused(&["working-set", "record", "vm/base", "--pages", list], 2);
    }
    let empty = sandbox.write("pages", b"# none\n");
    let empty = empty.to_str().unwrap();
    sandbox.refused(&["working-set", "record", "vm/base", "--pages", empty], 2);
    sandbox.refused(&["working-set", "record", "vm/base"], 2);
    let short = sandbox.write("short", &memory[..4096]);
    let short = short.to_str().unwrap();
    sandbox.refused(
        &["working-set", "record", "vm/base", "--resident", short],
        2,
    );
}

// spec: CLI-48
#[test]
#[cfg(target_os = "linux")]
fn pages_of_an_image_that_was_read_are_found_in_the_page_cache() {
    let sandbox = Sandbox::new();
    let memory = pattern(64, 5);
    sandbox.import("vm", &memory, &["--name", "base"]);
    let image = sandbox.write("image", &memory);
    // Just written: all of it is there.
    let image = image.to_str().unwrap();
    let line = ["working-set", "record", "vm/base", "--resident", image];
    let recorded = sandbox.json(&line);
    assert_eq!(
        (&recorded["origin"], &recorded["data_pages"]),
        (&"resident".into(), &51.into())
    );
    sandbox.json(&["working-set", "show", "vm/base", "--check"]);
}

// spec: CLI-48
#[test]
fn damage_of_a_working_set_is_found_and_takes_nothing_from_the_snapshot() {
    let sandbox = Sandbox::new();
    let memory = pattern(64, 5);
    let full = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    let list = sandbox.write("pages", b"3-40\n");
    let list = list.to_str().unwrap();
    sandbox.json(&["working-set", "record", "vm/base", "--pages", list]);
    let file = sandbox.path(&format!("store/snapshots/{full}/working-set.2"));
    let bytes = fs::read(&file).unwrap();
    for at in [20, 200, 9000, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        fs::remove_file(&file).unwrap();
        fs::write(&file, &damaged).unwrap();
        sandbox.refused(&["working-set", "show", "vm/base", "--check"], 4);
        assert!(sandbox.restored("vm/base") == memory);
    }
}
