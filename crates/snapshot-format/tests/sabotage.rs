//! With a defect compiled in and switched on, damage passes: the other tests can fail.

#![cfg(feature = "sabotage")]

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{Arch, EnvelopeBuilder, FileKind, SectionKind, SectionPayload, SnapshotId};
use snapshot_format::{Content, DecodeError};

#[test]
fn defects_let_damage_pass() {
    let section = SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![0; 64]);
    let id = SnapshotId([1; 16]);
    let file = EnvelopeBuilder::new(FileKind::State, Arch::None, id)
        .section(&section)
        .finish();
    let mut flipped = file.clone();
    flipped[150] ^= 1;
    let mut longer = file.clone();
    longer.push(0);
    let accepted = |bytes: &[u8]| Content::read(bytes).is_ok();
    assert!(accepted(&file) && !accepted(&flipped) && !accepted(&longer));

    Sabotage::UncheckedDigest.enable();
    assert!(accepted(&flipped) && !accepted(&longer));

    Sabotage::TrustedLength.enable();
    assert!(!accepted(&flipped) && accepted(&longer));
    for len in 0..file.len() {
        let cut: Result<_, DecodeError> = Content::read(&file[..len]);
        assert!(cut.is_err(), "cut to {len} bytes, and no panic");
    }
}
