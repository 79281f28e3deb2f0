use super::*;

const DOMAIN: DomainId = DomainId([7; 16]);
const ID: ObjectId = ObjectId([9; 16]);
const KEY: [u8; 32] = [3; 32];

fn sealed() -> Vec<u8> {
    seal(
        ObjectKind::Tombstone,
        DOMAIN,
        ID,
        b"body of an object",
        Some(&KEY),
    )
}

fn opened(bytes: &[u8]) -> Result<&[u8], FormatError> {
    open(bytes, ObjectKind::Tombstone, DOMAIN, ID, Some(&KEY))
}

// spec: VLT-02
#[test]
fn an_object_is_opened_by_its_own_name_and_key_only() {
    let bytes = sealed();
    assert_eq!(opened(&bytes), Ok(&b"body of an object"[..]));
    let key = Some(&KEY);
    let others = [
        open(&bytes, ObjectKind::Recipe, DOMAIN, ID, key),
        open(&bytes, ObjectKind::Tombstone, DomainId([8; 16]), ID, key),
        open(
            &bytes,
            ObjectKind::Tombstone,
            DOMAIN,
            ObjectId([8; 16]),
            key,
        ),
        open(&bytes, ObjectKind::Tombstone, DOMAIN, ID, Some(&[4; 32])),
        open(&bytes, ObjectKind::Tombstone, DOMAIN, ID, None),
    ];
    for other in others {
        assert!(other.is_err(), "{other:?}");
    }
}

#[test]
fn every_flipped_bit_and_every_other_length_is_found() {
    let bytes = sealed();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(opened(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
    for len in 0..bytes.len() {
        assert!(opened(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(opened(&longer).is_err());
}

#[test]
fn a_flipped_bit_in_the_version_is_damage_and_a_version_that_was_written_is_too_new() {
    let mut bytes = sealed();
    bytes[8] = 2;
    assert!(matches!(opened(&bytes), Err(FormatError::Checksum { .. })));
    let checksum = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&checksum);
    assert!(matches!(
        opened(&bytes),
        Err(FormatError::TooNew { found: 2, reads: 1 })
    ));
}
