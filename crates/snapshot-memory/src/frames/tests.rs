use proptest::prelude::*;
use snapshot_format::page_map::FRAME_BYTES;
use snapshot_format::{FrameCoding, FrameEntry};

use super::{FrameCodec, FrameCodecError, FrameDecoder, FrameEncoder, FrameFault};

/// Bytes that no codec shortens.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    words.take(len).collect()
}

fn codecs() -> impl Strategy<Value = FrameCodec> {
    prop_oneof![
        Just(FrameCodec::Lz4),
        (1..=4).prop_map(|level| FrameCodec::Zstd { level }),
    ]
}

/// One page: of one byte, of text, or of noise.
fn page() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte; 4096]),
        any::<u8>().prop_map(|byte| (0..4096u32).map(|i| (i / 9) as u8 ^ byte).collect()),
        any::<u64>().prop_map(|seed| noise(seed, 4096)),
    ]
}

fn decode(entry: &FrameEntry, bytes: &[u8], len: usize) -> Result<Vec<u8>, FrameFault> {
    let mut pages = vec![0xEE; len];
    FrameDecoder::default().decode(entry, bytes, &mut pages)?;
    Ok(pages)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // spec: MAP-22
    #[test]
    fn frames_decode_to_their_pages(
        codec in codecs(),
        frames in prop::collection::vec(prop::collection::vec(page(), 1..=16), 1..6),
    ) {
        let mut encoder = FrameEncoder::new(codec).unwrap();
        let mut decoder = FrameDecoder::default();
        let (mut out, mut entries) = (Vec::new(), Vec::new());
        for frame in &frames {
            let before = out.len();
            let entry = encoder.append(&frame.concat(), &mut out);
            prop_assert_eq!(out.len() - before, entry.stored_len as usize);
            prop_assert!(entry.fits(frame.len()), "{:?} for {} pages", entry, frame.len());
            entries.push(entry);
        }
        let mut bytes = &out[..];
        for (entry, frame) in entries.iter().zip(&frames) {
            let (stored, rest) = bytes.split_at(entry.stored_len as usize);
            let mut pages = vec![0xEE; frame.len() * 4096];
            decoder.decode(entry, stored, &mut pages).unwrap();
            prop_assert!(pages == frame.concat());
            bytes = rest;
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused_or_fill_the_pages(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        coding in prop::sample::select(vec![FrameCoding::Lz4, FrameCoding::Zstd]),
    ) {
        let entry = FrameEntry::of(coding, &bytes);
        if let Ok(pages) = decode(&entry, &bytes, 4096) {
            prop_assert_eq!(pages.len(), 4096);
        }
    }
}

#[test]
fn what_does_not_shrink_by_a_sixteenth_is_stored_as_it_is() {
    for codec in [
        FrameCodec::Lz4,
        FrameCodec::ZSTD,
        FrameCodec::Zstd { level: 19 },
    ] {
        let mut encoder = FrameEncoder::new(codec).unwrap();
        let mut out = Vec::new();
        let all_noise = noise(7, FRAME_BYTES);
        let entry = encoder.append(&all_noise, &mut out);
        assert_eq!(entry, FrameEntry::of(FrameCoding::Plain, &all_noise));
        assert!(out == all_noise);
        // One page of 32 that shrinks is not enough, two of 16 are.
        let mut little = all_noise.clone();
        little[..2048].fill(0);
        assert_eq!(encoder.append(&little, &mut out).coding, FrameCoding::Plain);
        little[..2 * 4096].fill(0);
        let entry = encoder.append(&little, &mut out);
        assert_ne!(entry.coding, FrameCoding::Plain, "{codec:?}");
        assert!(entry.stored_len as usize <= FRAME_BYTES - FRAME_BYTES / 16);
    }
}

#[test]
fn a_level_that_there_is_not_is_refused() {
    for level in [0, -1, 23, i32::MAX] {
        let refused = FrameEncoder::new(FrameCodec::Zstd { level });
        assert!(
            matches!(refused, Err(FrameCodecError::Level { .. })),
            "{level}"
        );
    }
}

// spec: MAP-22
#[test]
fn a_frame_that_decodes_to_another_length_is_refused() {
    for codec in [FrameCodec::Lz4, FrameCodec::ZSTD] {
        let mut bytes = Vec::new();
        let entry = FrameEncoder::new(codec)
            .unwrap()
            .append(&[5; 3 * 4096], &mut bytes);
        assert_eq!(decode(&entry, &bytes, 3 * 4096), Ok(vec![5; 3 * 4096]));
        let longer = decode(&entry, &bytes, 4 * 4096);
        assert!(
            matches!(longer, Err(FrameFault::Length { found: 12_288, .. })),
            "{longer:?}"
        );
        let shorter = decode(&entry, &bytes, 2 * 4096);
        assert!(
            matches!(shorter, Err(FrameFault::Undecodable { .. })),
            "{shorter:?}"
        );
    }
    let plain = FrameEntry::of(FrameCoding::Plain, &[1; 4096]);
    let short = decode(&plain, &[1; 4096], 8192);
    assert_eq!(
        short,
        Err(FrameFault::Length {
            expected: 8192,
            found: 4096
        })
    );
}

// spec: MAP-22
#[test]
fn two_frames_of_zstandard_are_not_one() {
    let one = zstd::bulk::compress(&[3; 4096], 3).unwrap();
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let twice = [one.clone(), one.clone()].concat();
    let around = [skippable.as_slice(), &one].concat();
    let behind = [one.as_slice(), &skippable].concat();
    for (bytes, len) in [(twice, 8192), (around, 4096), (behind, 4096)] {
        let entry = FrameEntry::of(FrameCoding::Zstd, &bytes);
        let refused = decode(&entry, &bytes, len);
        assert!(
            matches!(refused, Err(FrameFault::Undecodable { .. })),
            "{refused:?}"
        );
    }
}

// spec: MAP-22
#[test]
fn damage_never_reaches_a_decoder() {
    for codec in [FrameCodec::Lz4, FrameCodec::ZSTD] {
        let text: Vec<u8> = (0..4096u32).map(|i| (i / 7 % 90) as u8).collect();
        let mut bytes = Vec::new();
        let entry = FrameEncoder::new(codec).unwrap().append(&text, &mut bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            let damaged = decode(&entry, &bytes, 4096);
            assert!(
                matches!(damaged, Err(FrameFault::Checksum { .. })),
                "byte {at}"
            );
            bytes[at] ^= 0x10;
        }
    }
}

// spec: MAP-22
#[test]
fn a_bomb_writes_no_byte_beyond_its_pages() {
    // A megabyte of one byte, in a frame that says it holds a page.
    let bomb = vec![9; 1 << 20];
    let zstd = zstd::bulk::compress(&bomb, 1).unwrap();
    let lz4 = lz4_flex::block::compress(&bomb);
    for (coding, bytes) in [(FrameCoding::Zstd, zstd), (FrameCoding::Lz4, lz4)] {
        let entry = FrameEntry::of(coding, &bytes);
        let mut buffer = vec![0xEE; 8192];
        let (pages, guard) = buffer.split_at_mut(4096);
        let refused = FrameDecoder::default().decode(&entry, &bytes, pages);
        assert!(
            matches!(refused, Err(FrameFault::Undecodable { .. })),
            "{refused:?}"
        );
        assert!(guard.iter().all(|byte| *byte == 0xEE), "{coding:?}");
    }
}
