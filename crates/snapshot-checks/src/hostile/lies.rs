//! Counts, lengths and places that are not true, behind checksums that are.

use crate::golden::GoldenFile;
use crate::hostile::{Expected, Tally};
use crate::seal;

/// Changes every field that says where something is or how much there is of it, then sections.
pub(super) fn run(file: &GoldenFile, tally: &mut Tally) {
    for (field, at, width) in HEADER_FIELDS {
        lie(file, field, at, width, tally);
    }
    for entry in seal::entries(&file.bytes) {
        for (field, at, width) in ENTRY_FIELDS {
            lie(file, field, entry + at, width, tally);
        }
        drop_in_section(file, entry, tally);
    }
    future(file, tally);
}

/// A name, a place and a width in bytes.
type Field = (&'static str, usize, usize);

/// Fields of the header that can have one true value only.
const HEADER_FIELDS: [Field; 6] = [
    ("header length", 8, 2),
    ("table offset", seal::TABLE_OFFSET, 8),
    ("table length", seal::TABLE_LEN, 4),
    ("section count", seal::SECTION_COUNT, 4),
    ("file length", seal::FILE_LEN, 8),
    ("reserved bytes", 112, 8),
];

/// Fields of a table entry that can have one true value only.
const ENTRY_FIELDS: [Field; 3] = [
    ("offset", seal::ENTRY_OFFSET, 8),
    ("stored length", seal::ENTRY_STORED_LEN, 8),
    ("decoded length", seal::ENTRY_DECODED_LEN, 8),
];

/// Puts each false value in the field, with right checksums, and once with right digests too.
fn lie(file: &GoldenFile, field: &str, at: usize, width: usize, tally: &mut Tally) {
    let Some(old) = file.bytes.get(at..at + width) else {
        return;
    };
    let mut number = [0; 8];
    seal::put(&mut number, 0, old);
    let truth = u64::from_le_bytes(number);
    for value in false_values(truth) {
        let new = value.to_le_bytes();
        let Some(new) = new.get(..width).filter(|new| *new != old) else {
            continue;
        };
        for reseal in [seal::seal_checksums, seal::seal_all] {
            let mut bytes = file.bytes.clone();
            seal::put(&mut bytes, at, new);
            reseal(&mut bytes);
            let what = format_args!("{field} at {at} says {value:#x}");
            tally.judge(&file.name, what, &bytes, Expected::Refused);
        }
    }
}

fn false_values(truth: u64) -> impl Iterator<Item = u64> {
    let near = [1, 2, 7, 8, 64, 72, 4096];
    let above = near.map(|step| truth.wrapping_add(step));
    let below = near.map(|step| truth.wrapping_sub(step));
    let bits = (0..u64::BITS).map(move |bit| truth ^ 1 << bit);
    let fixed = [
        0,
        1,
        u64::MAX,
        u64::MAX / 2,
        u64::from(u32::MAX),
        1 << 31,
        1 << 63,
    ];
    above.into_iter().chain(below).chain(bits).chain(fixed)
}

/// Puts extreme numbers everywhere in a section and makes every digest right. What the section
/// then says may be true of some other snapshot, so only a panic is wrong.
fn drop_in_section(file: &GoldenFile, entry: usize, tally: &mut Tally) {
    let Some(section) = seal::section_range(&file.bytes, entry) else {
        return;
    };
    // Leaves are long and alike; a prime step reaches every field of them in some leaf.
    let step = if section.len() > 4096 { 61 } else { 1 };
    for at in section.step_by(step) {
        for new in EXTREMES {
            let mut bytes = file.bytes.clone();
            seal::put(&mut bytes, at, new);
            seal::seal_all(&mut bytes);
            let what = format_args!("{new:02x?} at {at} with right digests");
            tally.judge(&file.name, what, &bytes, Expected::NoPanic);
        }
    }
}

const EXTREMES: [&[u8]; 7] = [
    &[0],
    &[0x7f],
    &[0xff],
    &[0xff; 2],
    &[0xff; 4],
    &[0xff; 8],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
];

/// The same file as a later version of the format would stamp it.
fn future(file: &GoldenFile, tally: &mut Tally) {
    for (field, at) in [
        ("major version", 10),
        ("lowest reader", 14),
        ("read features", 20),
    ] {
        for value in [0x40_u16, u16::MAX] {
            let mut bytes = file.bytes.clone();
            seal::put(&mut bytes, at, &value.to_le_bytes());
            seal::seal_checksums(&mut bytes);
            let what = format_args!("{field} {value:#x}");
            tally.judge(&file.name, what, &bytes, Expected::Refused);
        }
    }
}
