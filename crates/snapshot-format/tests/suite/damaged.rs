//! Files that are not valid, each by one rule, behind checksums that are right.

use snapshot_format::{Arch, Envelope, EnvelopeBuilder, FileKind, MapRoot, OwnerLeaf};

use crate::cases::{Case, DIFF, manifest_full, map_diff, map_full, state, write_map};

/// Every file of the directory of damaged ones. None of them is a plain flipped bit: each has
/// right checksums and breaks one rule behind them.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, bytes| Case { name, bytes };
    let state = state().encode();
    let manifest = manifest_full().encode();
    let map = map_diff().bytes;
    let mut checksum = manifest.clone();
    checksum[16] ^= 0x20;
    let mut digest = manifest.clone();
    digest[130] ^= 1;
    let mut padding = state.clone();
    padding[128 + 7] = 1;
    let mut longer = manifest.clone();
    longer.push(0);
    let root = map_full().root;
    let other_id = EnvelopeBuilder::new(FileKind::Manifest, Arch::X86_64, DIFF);
    let other_id = Envelope::parse(&manifest)
        .and_then(|envelope| envelope.payloads())
        .expect("a sound manifest")
        .iter()
        .fold(other_id, EnvelopeBuilder::section)
        .finish();
    let empty_root = write_map(MapRoot { file: 2, ..root }, Vec::new(), Vec::new());
    vec![
        case(
            "magic.vms",
            [b"\x89VMS\n\x1a\n\0".as_slice(), &manifest[8..]].concat(),
        ),
        case("checksum.vms", checksum),
        case("digest.vms", digest),
        case("padding.vms", padding),
        case("longer.vms", longer),
        case("shorter.vms", manifest[..manifest.len() - 1].to_vec()),
        case("future.vms", with_header_byte(&manifest, 14, 2)),
        case("feature.vms", with_header_byte(&manifest, 20, 0x80)),
        case("unknown-kind.vms", with_header_byte(&manifest, 16, 99)),
        case("unknown-codec.vms", with_table_bytes(&state, 10, &[9])),
        case(
            "overlap.vms",
            with_table_bytes(&state, 72 + 16, &128u64.to_le_bytes()),
        ),
        case("other-id.vms", other_id),
        case("too-many-sections.vms", with_header_byte(&manifest, 54, 1)),
        case(
            "root-version.map",
            with_table_bytes(&map, 72 + 8, &2u16.to_le_bytes()),
        ),
        case("lost-owner.map", {
            let map = map_diff();
            write_map(map.root, map.index, Vec::new()).bytes
        }),
        case("no-leaf.map", {
            let map = map_full();
            write_map(map.root, Vec::new(), Vec::new()).bytes
        }),
        case("leaf-of-another.map", {
            let map = map_diff();
            let owners = vec![OwnerLeaf::uniform(1, 1)];
            write_map(
                MapRoot {
                    file: 3,
                    ..map.root
                },
                map.index,
                owners,
            )
            .bytes
        }),
        case("wrong-length.map", {
            write_map(
                MapRoot {
                    data_len_bytes: 4096,
                    ..empty_root.root
                },
                vec![],
                vec![],
            )
            .bytes
        }),
    ]
}

/// The same file with another byte at `offset`, and the header's checksum made right again.
pub(crate) fn with_header_byte(bytes: &[u8], offset: usize, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset] = byte;
    fix_header(&mut bytes);
    bytes
}

/// The same file with other bytes at `offset` of its section table, and both checksums right.
pub(crate) fn with_table_bytes(bytes: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let table = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes"));
    let table = usize::try_from(table).expect("a short file");
    bytes[table + offset..table + offset + new.len()].copy_from_slice(new);
    let crc = crc32c::crc32c(&bytes[table..]);
    bytes[120..124].copy_from_slice(&crc.to_le_bytes());
    fix_header(&mut bytes);
    bytes
}

fn fix_header(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
}
