use proptest::prelude::*;

use super::*;
use crate::pack::{PackBuilder, PageMask};
use crate::secrets::RootKey;

const DOMAIN: DomainId = DomainId([1; 16]);
const CODECS: [FrameCodec; 2] = [FrameCodec::Lz4, FrameCodec::Zstd { level: 1 }];

/// A chunk whose page n is of byte `bytes[n]`, or of noise where that is 255.
fn chunk(bytes: [u8; 16]) -> Box<Chunk> {
    let mut chunk = zero_chunk();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for (page, byte) in chunk.chunks_mut(PAGE_BYTES).zip(bytes) {
        page.fill(byte);
        for word in page.chunks_mut(8).filter(|_| byte == 255) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
    }
    chunk
}

/// Which pages of two chunks differ.
fn different_pages(one: &Chunk, other: &Chunk) -> PageMask {
    let (ones, _) = one.as_chunks::<PAGE_BYTES>();
    let (others, _) = other.as_chunks::<PAGE_BYTES>();
    let pairs = ones.iter().zip(others).enumerate();
    pairs
        .filter(|(_, (one, other))| one != other)
        .fold(PageMask::default(), |mask, (page, _)| mask.with(page))
}

/// What a chunk is after it was stored in a pack and read back over `base`.
fn stored(
    chunk: &Chunk,
    base: &Chunk,
    representation: Representation,
    codec: FrameCodec,
    is_sealed: bool,
) -> Box<Chunk> {
    let secrets = Secrets::derive(DOMAIN, &RootKey([2; 32]), is_sealed);
    let id = secrets.chunk_id(chunk);
    let mut encoder = ChunkEncoder::new(codec).unwrap();
    let encoded = encoder.encode(id, chunk, representation);
    let mut pack = PackBuilder::new(DOMAIN).unwrap();
    pack.push(id, representation, encoded.coding, &encoded.bytes, &secrets)
        .unwrap();
    let pack = pack.finish(&secrets);
    let entry = &pack.table.entries[0];
    let start = usize::try_from(entry.payload_offset()).unwrap();
    let found = Found {
        domain: DOMAIN,
        pack: pack.id,
        entry,
        stored: &pack.bytes[start..start + entry.stored_len as usize],
    };
    let mut back = zero_chunk();
    *back = *base;
    let mut decoder = ChunkDecoder::default();
    decoder.decode(found, &secrets, &mut back).unwrap();
    back
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_chunk_comes_back_from_every_representation(
        new in proptest::array::uniform16(prop::sample::select(vec![0_u8, 7, 255])),
        old in proptest::array::uniform16(prop::sample::select(vec![0_u8, 7, 255])),
        is_sealed in any::<bool>(),
        codec in prop::sample::select(CODECS.to_vec()),
    ) {
        let (new, old) = (chunk(new), chunk(old));
        let full = stored(&new, &old, Representation::Full, codec, is_sealed);
        prop_assert!(full == new);
        let mask = different_pages(&new, &old);
        if !mask.is_empty() {
            let base = ChunkId([9; 32]);
            let delta = Representation::Delta { base, mask };
            prop_assert!(stored(&new, &old, delta, codec, is_sealed) == new);
        }
    }
}

#[test]
fn a_payload_that_decodes_to_more_than_its_pages_writes_nothing_beyond_them() {
    let secrets = Secrets::derive(DOMAIN, &RootKey([2; 32]), false);
    let id = ChunkId([3; 32]);
    let mask = PageMask(0b10);
    let representation = Representation::Delta {
        base: ChunkId([9; 32]),
        mask,
    };
    // Two pages, in a record that says it holds one.
    let mut encoder = ChunkEncoder::new(FrameCodec::Lz4).unwrap();
    let two = Representation::Delta {
        base: ChunkId([9; 32]),
        mask: PageMask(0b11),
    };
    let encoded = encoder.encode(id, &chunk([7; 16]), two);
    let mut pack = PackBuilder::new(DOMAIN).unwrap();
    pack.push(id, representation, encoded.coding, &encoded.bytes, &secrets)
        .unwrap();
    let pack = pack.finish(&secrets);
    let entry = &pack.table.entries[0];
    let start = usize::try_from(entry.payload_offset()).unwrap();
    let found = Found {
        domain: DOMAIN,
        pack: pack.id,
        entry,
        stored: &pack.bytes[start..start + entry.stored_len as usize],
    };
    let mut target = zero_chunk();
    let decoded = ChunkDecoder::default().decode(found, &secrets, &mut target);
    assert!(
        matches!(decoded, Err(FormatError::Payload { .. })),
        "{decoded:?}"
    );
    assert!(target.iter().all(|byte| *byte == 0));
}

#[test]
fn every_flipped_bit_of_a_payload_is_found() {
    let secrets = Secrets::derive(DOMAIN, &RootKey([2; 32]), false);
    let one = chunk([7; 16]);
    let id = secrets.chunk_id(one.as_slice());
    let mut encoder = ChunkEncoder::new(FrameCodec::Zstd { level: 1 }).unwrap();
    let encoded = encoder.encode(id, &one, Representation::Full);
    let mut pack = PackBuilder::new(DOMAIN).unwrap();
    pack.push(
        id,
        Representation::Full,
        encoded.coding,
        &encoded.bytes,
        &secrets,
    )
    .unwrap();
    let pack = pack.finish(&secrets);
    let entry = &pack.table.entries[0];
    let start = usize::try_from(entry.payload_offset()).unwrap();
    let payload = &pack.bytes[start..start + entry.stored_len as usize];
    for at in 0..payload.len() {
        let mut flipped = payload.to_vec();
        flipped[at] ^= 1;
        let found = Found {
            domain: DOMAIN,
            pack: pack.id,
            entry,
            stored: &flipped,
        };
        let mut target = zero_chunk();
        let decoded = ChunkDecoder::default().decode(found, &secrets, &mut target);
        assert!(
            matches!(decoded, Err(FormatError::Checksum { .. })),
            "byte {at}: {decoded:?}"
        );
    }
}
