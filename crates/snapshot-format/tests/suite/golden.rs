//! Files of every version that never change: what they say, and that no flipped bit passes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use snapshot_format::envelope::{SECTION_ENTRY_BYTES, SectionTable};
use snapshot_format::{
    Content, DecodeError, Envelope, FrameEntry, Header, LeafTable, Manifest, Placement,
    SectionKind, StateFile, inspect,
};

use crate::cases::{self, Case};
use crate::{damaged, framed};

/// Set to add the golden files of new cases. Files that are there are never touched.
const WRITE: &str = "VMSNAP_WRITE_GOLDEN";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    fs::read(&path).expect(name)
}

/// Every name in `SHA256SUMS` of a version, with its sum.
fn sums(version: &str) -> Vec<(String, String)> {
    let text = String::from_utf8(read(&format!("{version}/SHA256SUMS"))).expect("text");
    let lines = text
        .lines()
        .map(|line| line.split_once("  ").expect("sum and name"));
    lines
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect()
}

fn sum(bytes: &[u8]) -> String {
    let sum: [u8; 32] = Sha256::digest(bytes).into();
    // A digest of this crate prints 32 bytes as hexadecimal digits.
    snapshot_format::Digest(sum).to_string()
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a plain value") + "\n"
}

fn add(path: &str, bytes: &[u8]) {
    let (version, name) = path.split_once('/').expect("a version");
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(directory().join(path));
    file.and_then(|mut file| file.write_all(bytes))
        .expect("a new file");
    let sums = OpenOptions::new()
        .append(true)
        .create(true)
        .open(directory().join(version).join("SHA256SUMS"));
    let line = format!("{}  {name}\n", sum(bytes));
    sums.and_then(|mut sums| sums.write_all(line.as_bytes()))
        .expect("a line more");
}

/// Adds the files of cases that have none, if the environment asks for it.
fn ensure_written(case: &Case, name: &str, expected: &str) {
    let path = directory().join(name);
    if path.exists() {
        return;
    }
    assert!(
        std::env::var_os(WRITE).is_some(),
        "{} is missing; {WRITE}=1 adds it",
        path.display()
    );
    add(name, &case.bytes);
    add(&format!("{name}.expect.json"), expected.as_bytes());
}

/// Checks a whole file of any kind, with everything in it.
pub(crate) fn parse_fully(bytes: &[u8]) -> Result<(), DecodeError> {
    Content::read(bytes).map(drop)
}

// spec: VER-06
#[test]
fn golden_files_say_what_they_said_when_they_were_written() {
    for case in cases::cases() {
        let view = inspect(&case.bytes, case.bytes.len() as u64);
        ensure_written(&case, case.name, &pretty(&view));
        let bytes = read(case.name);
        parse_fully(&bytes).expect(case.name);
        let found = serde_json::to_value(inspect(&bytes, bytes.len() as u64)).expect("a value");
        let expected = read(&format!("{}.expect.json", case.name));
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        assert_eq!(found, expected, "{}", case.name);
    }
}

#[test]
fn damaged_files_are_refused_for_their_own_reason() {
    for case in damaged::cases() {
        let (version, file) = case.name.split_once('/').expect("a version");
        let name = format!("{version}/corrupt/{file}");
        let problem = |bytes: &[u8]| {
            let error = parse_fully(bytes).expect_err(case.name);
            serde_json::to_value(snapshot_format::Problem::from(&error)).expect("a value")
        };
        let expected = || {
            let expected = read(&format!("{name}.expect.json"));
            serde_json::from_slice::<Value>(&expected).expect("JSON")
        };
        if NO_LONGER_FROM_THE_FUTURE.contains(&case.name) {
            assert_eq!(expected()["kind"], "too_new", "{name}");
            parse_fully(&read(&name)).expect("a file of a version that is read by now");
            continue;
        }
        ensure_written(&case, &name, &pretty(&problem(&case.bytes)));
        let (mut found, mut expected) = (problem(&read(&name)), expected());
        for problem in [&mut found, &mut expected] {
            forget_what_is_read(problem);
        }
        assert_eq!(found, expected, "{name}");
    }
}

/// Files that asked for a later version than that of their folder, which has come since: nothing
/// else is wrong with them.
const NO_LONGER_FROM_THE_FUTURE: [&str; 1] = ["v0.1/future.vms"];

/// Cuts off which version this build reads, which each version says of itself.
fn forget_what_is_read(problem: &mut Value) {
    if problem["kind"] == "too_new" {
        let message = problem["message"].as_str().unwrap_or_default();
        let (needed, _) = message.split_once(", this one").expect("both versions");
        problem["message"] = needed.into();
    }
}

// spec: VER-07
#[test]
fn golden_files_are_the_ones_that_were_listed() {
    for version in ["v0.1", "v0.2", "v0.3", "v0.4", "v0.5"] {
        let sums = sums(version);
        for (name, expected) in &sums {
            let bytes = read(&format!("{version}/{name}"));
            assert_eq!(&sum(&bytes), expected, "{version}/{name} was changed");
        }
        let mut files = Vec::new();
        for folder in ["", "corrupt/"] {
            let path = directory().join(version).join(folder);
            for entry in fs::read_dir(path).expect("a directory") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("a type").is_file() {
                    files.push(format!("{folder}{}", entry.file_name().display()));
                }
            }
        }
        files.retain(|name| name != "SHA256SUMS");
        files.sort_unstable();
        let mut listed: Vec<_> = sums.into_iter().map(|(name, _)| name).collect();
        listed.sort_unstable();
        assert_eq!(files, listed);
    }
}

// spec: MAP-18
#[test]
fn a_data_file_of_frames_is_the_one_that_its_map_was_made_for() {
    let (name, map) = ("v0.2/memory-frames.img", framed::map());
    if !directory().join(name).exists() {
        assert!(std::env::var_os(WRITE).is_some(), "{WRITE}=1 adds {name}");
        add(name, &framed::data());
    }
    let data = read(name);
    assert_eq!(data, framed::data());
    assert_eq!(data.len() as u64, map.root.data_len_bytes);
    let mut end = 0;
    for frame in map
        .index
        .iter()
        .flat_map(snapshot_format::IndexLeaf::frames)
    {
        assert_eq!(frame.offset, end, "frames lie back to back");
        end = frame.end();
        let range = usize::try_from(frame.offset).expect("a short file")
            ..usize::try_from(end).expect("a short file");
        assert_eq!(
            FrameEntry::of(frame.entry.coding, &data[range]),
            frame.entry
        );
    }
    assert_eq!(end, map.root.data_len_bytes);
}

#[test]
fn frames_and_maps_are_written_as_they_were() {
    for case in cases::cases() {
        let bytes = read(case.name);
        let envelope = Envelope::parse(&bytes).expect(case.name);
        let (header, table) =
            SectionTable::new(envelope.table().entries().to_vec()).close(envelope.header().clone());
        assert_eq!(header.encode(), bytes[..128], "{}", case.name);
        let table_len = envelope.table().entries().len() * SECTION_ENTRY_BYTES;
        assert_eq!(table, bytes[bytes.len() - table_len..], "{}", case.name);
    }
    for (name, map) in [
        ("v0.1/memory-full.map", cases::map_full()),
        ("v0.1/memory-diff.map", cases::map_diff()),
        ("v0.2/memory-frames.map", framed::map()),
    ] {
        // Everything behind the header, which holds the version of the writer.
        assert_eq!(read(name)[128..], map.bytes[128..], "{name}");
    }
    let bytes = read("v0.1/placement.vms");
    let envelope = Envelope::parse(&bytes).expect("a placement");
    let flattened = envelope
        .section(SectionKind::FLATTENED_MAP, 0)
        .expect("a table");
    let table = LeafTable::parse(flattened).expect("a table");
    assert_eq!(table.encode(), flattened);
}

// spec: STA-01
#[test]
fn payloads_decode_to_the_same_values() {
    let manifest = Manifest::parse(&read("v0.1/manifest-full.vms"));
    assert_eq!(manifest, Ok(cases::manifest_full()));
    let manifest = Manifest::parse(&read("v0.1/manifest-diff.vms"));
    assert_eq!(manifest, Ok(cases::manifest_diff()));
    let placement = Placement::parse(&read("v0.1/placement.vms"));
    assert_eq!(placement, Ok(cases::placement()));
    assert_eq!(
        StateFile::parse(&read("v0.1/state.vms")),
        Ok(cases::state())
    );
    let mut offers = StateFile::offers(&read("v0.1/machine-x86_64.vms")).expect("a state file");
    let machine = crate::machine::machine();
    assert_eq!(offers.take_all(), Ok(vec![(0, machine.vcpu)]));
    assert_eq!(offers.take(0), Ok(machine.vm));
    assert_eq!(offers.take(0), Ok(machine.device));
    assert_eq!(offers.take(0), Ok(machine.fingerprint));
    assert_eq!(offers.finish(), Ok(()));
    let mut offers = StateFile::offers(&read("v0.3/machine-x86_64.vms")).expect("a state file");
    let machine = crate::machine::machine_v2();
    assert_eq!(offers.take_all(), Ok(vec![(0, machine.vcpu)]));
    assert_eq!(offers.take(0), Ok(machine.vm));
}

// spec: STA-01
// spec: ARM-02
#[test]
fn payloads_of_an_arm_machine_decode_to_the_same_values() {
    let mut offers = StateFile::offers(&read("v0.3/machine-aarch64.vms")).expect("a state file");
    let machine = crate::machine_arm64::machine();
    assert_eq!(offers.take_all(), Ok(vec![(0, machine.vcpu)]));
    assert_eq!(offers.take(0), Ok(machine.vm));
    assert_eq!(offers.take(0), Ok(machine.gic));
    assert_eq!(offers.take(0), Ok(machine.gic_v2));
    assert_eq!(offers.take(0), Ok(machine.blob));
    assert_eq!(offers.take(0), Ok(machine.fingerprint));
    assert_eq!(offers.remaining().count(), 0);
}

// spec: ENV-02
#[test]
fn any_flipped_bit_is_found_and_is_never_a_file_from_the_future() {
    for case in cases::cases() {
        let mut bytes = read(case.name);
        for offset in 0..bytes.len() {
            // Every bit of the frame, one bit of every other byte.
            let in_frame = offset < 128 || offset + 3 * SECTION_ENTRY_BYTES > bytes.len();
            let bits = if in_frame {
                0..8
            } else {
                offset % 8..offset % 8 + 1
            };
            for bit in bits {
                bytes[offset] ^= 1 << bit;
                let error = parse_fully(&bytes).expect_err("a flipped bit was accepted");
                assert_eq!(
                    error.kind(),
                    snapshot_format::ErrorKind::Corrupt,
                    "{} at {offset:#x} bit {bit}: {error}",
                    case.name
                );
                bytes[offset] ^= 1 << bit;
            }
        }
    }
}

// spec: ENV-03
#[test]
fn any_other_length_is_found() {
    for case in cases::cases() {
        let mut bytes = read(case.name);
        let file_len = bytes.len() as u64;
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            parse_fully(cut).expect_err("a cut file was accepted");
            let inspection = inspect(cut, len as u64);
            assert!(inspection.error.is_some(), "{} cut to {len}", case.name);
        }
        bytes.push(0);
        parse_fully(&bytes).expect_err("a longer file was accepted");
        Header::parse(&bytes, file_len + 1).expect_err("a longer file was accepted");
        Header::parse(&bytes, file_len).expect(case.name);
    }
}
