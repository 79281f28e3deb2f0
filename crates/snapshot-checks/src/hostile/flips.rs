//! Every byte of a file, changed.

use crate::golden::GoldenFile;
use crate::hostile::{Expected, Tally};

/// Flips one bit of each byte, and all bits of each byte.
pub(super) fn run(file: &GoldenFile, tally: &mut Tally) {
    let mut bytes = file.bytes.clone();
    for at in 0..bytes.len() {
        for mask in [1 << (at % 8), 0xff] {
            let Some(byte) = bytes.get_mut(at) else {
                continue;
            };
            *byte ^= mask;
            let what = format_args!("byte {at} flipped by {mask:#04x}");
            tally.judge(&file.name, what, &bytes, Expected::Refused);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
    }
}
