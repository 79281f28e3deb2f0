//! Whole files: as they come, and with every checksum and digest made right.

use snapshot_format::envelope::SectionTable;
use snapshot_format::state::{
    DeviceState, Fingerprint, GicBlob, GicV2, GicV3, VcpuArm64, VcpuX86, VmArm64, VmX86,
};
use snapshot_format::{
    Envelope, FileKind, Manifest, Placement, SectionOffers, StateFile, StatePayload, inspect,
    inspect_ends, table_range,
};

use crate::seal;
use crate::whole_file::WholeFile;

/// Whatever is accepted is framed by exactly the bytes that a writer would frame it by.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_envelope(bytes: &[u8]) {
    both_ways(bytes, |bytes| {
        // Every deeper check runs too, for panics.
        let _ = WholeFile::parse(bytes);
        let Ok(envelope) = Envelope::parse(bytes) else {
            return;
        };
        let entries = envelope.table().entries().to_vec();
        let (header, table) = SectionTable::new(entries).close(envelope.header().clone());
        assert_eq!(
            header.encode().as_slice(),
            head(bytes),
            "the header is written as it was read"
        );
        assert!(
            bytes.ends_with(&table),
            "the section table is written as it was read"
        );
    });
}

/// An inspection never panics, never looks beyond the bytes, and agrees with the parser.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_inspect(bytes: &[u8]) {
    both_ways(bytes, |bytes| {
        let len = bytes.len() as u64;
        let inspection = inspect(bytes, len);
        if inspection.error.is_none() {
            assert!(
                Envelope::parse(bytes).is_ok(),
                "inspect finds no error in a file that has one"
            );
        } else {
            assert!(
                WholeFile::parse(bytes).is_err(),
                "inspect finds an error in a valid file"
            );
        }
        for file_len in [0, len / 2, len + 1, u64::MAX] {
            assert!(
                inspect(bytes, file_len).error.is_some(),
                "a wrong length is an error"
            );
        }
        let table = table_range(bytes).unwrap_or_default();
        let table = usize::try_from(table.start)
            .ok()
            .zip(usize::try_from(table.end).ok());
        let table = table
            .and_then(|(start, end)| bytes.get(start..end))
            .unwrap_or_default();
        let _ = inspect_ends(head(bytes), table, len);
    });
}

/// A manifest that is accepted survives being written again.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_manifest(bytes: &[u8]) {
    both_ways(bytes, |bytes| {
        if let Ok(manifest) = Manifest::parse(bytes) {
            assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest));
        }
    });
}

/// A placement that is accepted survives being written again.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_placement(bytes: &[u8]) {
    both_ways(bytes, |bytes| {
        if let Ok(placement) = Placement::parse(bytes) {
            assert_eq!(Placement::parse(&placement.encode()), Ok(placement));
        }
    });
}

/// Machine state that is accepted survives being written again, section by section.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_state(bytes: &[u8]) {
    both_ways(bytes, |bytes| {
        let Ok(file) = StateFile::parse(bytes) else {
            return;
        };
        assert_eq!(
            file.id,
            envelope_id(bytes),
            "the file repeats the id of its header"
        );
        let mut offers = SectionOffers::new(file.sections);
        round_trip::<VcpuX86>(&mut offers);
        round_trip::<VmX86>(&mut offers);
        round_trip::<VcpuArm64>(&mut offers);
        round_trip::<VmArm64>(&mut offers);
        round_trip::<GicV3>(&mut offers);
        round_trip::<GicV2>(&mut offers);
        round_trip::<GicBlob>(&mut offers);
        round_trip::<DeviceState>(&mut offers);
        round_trip::<Fingerprint>(&mut offers);
    });
    // The payload decoders alone: a fuzzer finds its way through them faster without a frame.
    let version = bytes.first().copied().unwrap_or_default().into();
    let payload = bytes.get(1..).unwrap_or_default();
    decode::<VcpuX86>(version, payload);
    decode::<VmX86>(version, payload);
    decode::<VcpuArm64>(version, payload);
    decode::<VmArm64>(version, payload);
    decode::<GicV3>(version, payload);
    decode::<GicV2>(version, payload);
    decode::<GicBlob>(version, payload);
    decode::<DeviceState>(version, payload);
    decode::<Fingerprint>(version, payload);
}

/// Runs `body` on the bytes, and on the bytes with every checksum and digest made right.
pub(super) fn both_ways(bytes: &[u8], body: impl Fn(&[u8])) {
    body(bytes);
    let mut sealed = bytes.to_vec();
    seal::put(
        &mut sealed,
        seal::FILE_LEN,
        &(bytes.len() as u64).to_le_bytes(),
    );
    seal::seal_all(&mut sealed);
    body(&sealed);
}

fn head(bytes: &[u8]) -> &[u8] {
    bytes.get(..128).unwrap_or(bytes)
}

fn envelope_id(bytes: &[u8]) -> snapshot_format::SnapshotId {
    let envelope = Envelope::parse_kind(bytes, FileKind::State);
    envelope.map_or(snapshot_format::SnapshotId([0; 16]), |envelope| {
        envelope.header().id
    })
}

fn round_trip<T: StatePayload>(offers: &mut SectionOffers) {
    for (_, value) in offers.take_all::<T>().unwrap_or_default() {
        encode_again(&value);
    }
}

fn decode<T: StatePayload>(version: u16, bytes: &[u8]) {
    if let Ok(value) = T::decode(version, bytes) {
        encode_again(&value);
    }
}

fn encode_again<T: StatePayload>(value: &T) {
    let bytes = value.encode();
    let again = T::decode(T::VERSION, &bytes).map(|value| value.encode());
    assert_eq!(
        again,
        Ok(bytes),
        "a value that was accepted is written and read again"
    );
}
