//! Files of format 0.1 that never change: what they say, and that no flipped bit passes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use snapshot_format::envelope::{SECTION_ENTRY_BYTES, SectionTable};
use snapshot_format::{
    Content, DecodeError, Envelope, Header, LeafTable, Manifest, Placement, SectionKind, StateFile,
    inspect,
};

use crate::cases::{self, Case};
use crate::damaged;

/// Set to add the golden files of new cases. Files that are there are never touched.
const WRITE: &str = "VMSNAP_WRITE_GOLDEN";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v0.1")
}

pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    fs::read(&path).expect(name)
}

/// Every name in `SHA256SUMS`, with its sum.
fn sums() -> Vec<(String, String)> {
    let text = String::from_utf8(read("SHA256SUMS")).expect("text");
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

fn add(name: &str, bytes: &[u8]) {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(directory().join(name));
    file.and_then(|mut file| file.write_all(bytes))
        .expect("a new file");
    let sums = OpenOptions::new()
        .append(true)
        .create(true)
        .open(directory().join("SHA256SUMS"));
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
        let name = format!("corrupt/{}", case.name);
        let problem = |bytes: &[u8]| {
            let error = parse_fully(bytes).expect_err(case.name);
            serde_json::to_value(snapshot_format::Problem::from(&error)).expect("a value")
        };
        ensure_written(&case, &name, &pretty(&problem(&case.bytes)));
        let expected = read(&format!("{name}.expect.json"));
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        assert_eq!(problem(&read(&name)), expected, "{name}");
    }
}

// spec: VER-07
#[test]
fn golden_files_are_the_ones_that_were_listed() {
    let sums = sums();
    for (name, expected) in &sums {
        assert_eq!(&sum(&read(name)), expected, "{name} was changed");
    }
    let mut files = Vec::new();
    for folder in ["", "corrupt/"] {
        for entry in fs::read_dir(directory().join(folder)).expect("a directory") {
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
        ("memory-full.map", cases::map_full()),
        ("memory-diff.map", cases::map_diff()),
    ] {
        // Everything behind the header, which holds the version of the writer.
        assert_eq!(read(name)[128..], map.bytes[128..], "{name}");
    }
    let bytes = read("placement.vms");
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
    let manifest = Manifest::parse(&read("manifest-full.vms"));
    assert_eq!(manifest, Ok(cases::manifest_full()));
    let manifest = Manifest::parse(&read("manifest-diff.vms"));
    assert_eq!(manifest, Ok(cases::manifest_diff()));
    let placement = Placement::parse(&read("placement.vms"));
    assert_eq!(placement, Ok(cases::placement()));
    assert_eq!(StateFile::parse(&read("state.vms")), Ok(cases::state()));
    let mut offers = StateFile::offers(&read("machine-x86_64.vms")).expect("a state file");
    let machine = crate::machine::machine();
    assert_eq!(offers.take_all(), Ok(vec![(0, machine.vcpu)]));
    assert_eq!(offers.take(0), Ok(machine.vm));
    assert_eq!(offers.take(0), Ok(machine.device));
    assert_eq!(offers.take(0), Ok(machine.fingerprint));
    assert_eq!(offers.finish(), Ok(()));
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
