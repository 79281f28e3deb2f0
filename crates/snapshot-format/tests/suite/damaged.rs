//! Files that are not valid, each by one rule, behind checksums that are right.

use snapshot_format::state::GsiRoute;
use snapshot_format::{Arch, Envelope, EnvelopeBuilder, FileKind, MapRoot, OwnerLeaf, limits};

use crate::cases::{Case, DIFF, manifest_full, map_diff, map_full, state, write_map};
use crate::{framed, machine, merged, working_set};

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
            "v0.1/magic.vms",
            [b"\x89VMS\n\x1a\n\0".as_slice(), &manifest[8..]].concat(),
        ),
        case("v0.1/checksum.vms", checksum),
        case("v0.1/digest.vms", digest),
        case("v0.1/padding.vms", padding),
        case("v0.1/longer.vms", longer),
        case("v0.1/shorter.vms", manifest[..manifest.len() - 1].to_vec()),
        case("v0.1/future.vms", with_header_byte(&manifest, 14, 2)),
        case("v0.1/feature.vms", with_header_byte(&manifest, 20, 0x80)),
        case("v0.1/unknown-kind.vms", with_header_byte(&manifest, 16, 99)),
        case("v0.1/unknown-codec.vms", with_table_bytes(&state, 10, &[9])),
        case(
            "v0.1/overlap.vms",
            with_table_bytes(&state, 72 + 16, &128u64.to_le_bytes()),
        ),
        case("v0.1/other-id.vms", other_id),
        case(
            "v0.1/too-many-sections.vms",
            with_header_byte(&manifest, 54, 1),
        ),
        case(
            "v0.1/root-version.map",
            with_table_bytes(&map, 72 + 8, &2u16.to_le_bytes()),
        ),
        case("v0.1/lost-owner.map", {
            let map = map_diff();
            write_map(map.root, map.index, Vec::new()).bytes
        }),
        case("v0.1/no-leaf.map", {
            let map = map_full();
            write_map(map.root, Vec::new(), Vec::new()).bytes
        }),
        case("v0.1/leaf-of-another.map", {
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
        case("v0.1/wrong-length.map", {
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
        case("v0.2/later.vms", with_header_byte(&manifest, 15, 0xff)),
        case(
            "v0.2/frame-coding.map",
            framed::with_entry(0, |word| word | 9 << 28),
        ),
        case(
            "v0.2/frame-length.map",
            framed::with_entry(2, |word| word - 1),
        ),
        case(
            "v0.2/frame-no-shorter.map",
            framed::with_entry(2, |word| word | 1 << 28),
        ),
        case("v0.2/frame-empty.map", framed::with_entry(0, |_| 1 << 28)),
        case(
            "v0.2/frames-overlap.map",
            framed::with_entry(0, |word| word + 1),
        ),
        case(
            "v0.2/frames-short.map",
            framed::with_root(|root| root.data_len_bytes += 1),
        ),
        case(
            "v0.2/frames-beyond.map",
            framed::with_root(|root| root.data_len_bytes -= 1),
        ),
        case(
            "v0.2/frames-unsaid.map",
            framed::with_root(framed::as_packed),
        ),
        case(
            "v0.2/frames-for-older-readers.map",
            with_header_byte(&framed::map().bytes, 14, 1),
        ),
        case("v0.3/too-many-routes.vms", {
            let mut machine = machine::machine_v2();
            machine.vm.routes = Some(vec![GsiRoute::default(); limits::MAX_GSI_ROUTES + 1]);
            machine::state_file(&machine).encode()
        }),
        case("v0.4/working-set-twice.vms", working_set::twice()),
        case("v0.4/working-set-outside.vms", working_set::outside()),
        case("v0.4/working-set-bytes.vms", working_set::other_bytes()),
        case(
            "v0.4/working-set-older.vms",
            working_set::for_older_readers(),
        ),
        case(
            "v0.5/merged-alone-and-inheriting.map",
            merged::alone_and_inheriting(),
        ),
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
