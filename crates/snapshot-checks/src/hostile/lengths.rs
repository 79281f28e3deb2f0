//! Files cut off, and files that go on.

use crate::golden::GoldenFile;
use crate::hostile::{Expected, Tally};

/// Every truncation, from both ends, and a few extensions.
pub(super) fn run(file: &GoldenFile, tally: &mut Tally) {
    for end in 0..file.bytes.len() {
        let cut = file.bytes.get(..end).unwrap_or_default();
        tally.judge(
            &file.name,
            format_args!("cut at {end}"),
            cut,
            Expected::Refused,
        );
    }
    for start in (1..file.bytes.len()).step_by(61) {
        let cut = file.bytes.get(start..).unwrap_or_default();
        tally.judge(
            &file.name,
            format_args!("begins at {start}"),
            cut,
            Expected::Refused,
        );
    }
    for more in [1, 7, 8, 72, 4096] {
        for fill in [0, 0xff] {
            let mut long = file.bytes.clone();
            long.resize(long.len() + more, fill);
            let what = format_args!("{more} bytes of {fill:#04x} more");
            tally.judge(&file.name, what, &long, Expected::Refused);
        }
    }
    let twice = [file.bytes.as_slice(), &file.bytes].concat();
    tally.judge(&file.name, "twice", &twice, Expected::Refused);
}
