use std::fmt::Write;

use super::*;

const NAMES: AcpiNames = AcpiNames {
    oem: *b"VMSNAP",
    table: *b"VMGENID ",
    hid: *b"VMSN0001",
};

/// The bodies that Intel's compiler makes of the source in page 16 of the specification, with
/// constants of this width.
const GPE_BODY: &str = "\
    104a055c5f53425f5b8241055647454e085f4849440d564d534e3030303100085f4349440d56\
    4d5f47656e5f436f756e74657200085f44444e0d564d5f47656e5f436f756e74657200084144\
    4452120c020cf0debc9a0c78563412101a5c5f47504514135f45304200865c2e5f53425f5647\
    454e0a80";
const INTERRUPT_BODY: &str = "\
    104d0a5c5f53425f5b8241055647454e085f4849440d564d534e3030303100085f4349440d56\
    4d5f47656e5f436f756e74657200085f44444e0d564d5f47656e5f436f756e74657200084144\
    4452120c020cf0debc9a0c785634125b82410556474544085f4849440d414350493030313300\
    085f5549440d5647454e00085f435253110e0a0b8906000301290001007900141c5f45565409\
    a01593680c29000100865c2e5f53425f5647454e0a80";

const ADDRESS: GuestAddress = GuestAddress(0x1234_5678_9abc_def0);

fn device(event: GenerationEvent) -> GenerationDevice {
    GenerationDevice::new(ADDRESS, event).unwrap()
}

fn as_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

// spec: RES-12
#[test]
fn the_table_is_what_a_compiler_makes_of_its_source() {
    let gpe = device(GenerationEvent::Gpe(0x0b));
    assert_eq!(as_hex(&gpe.aml(&NAMES)), GPE_BODY);
    let interrupt = device(GenerationEvent::Interrupt(0x1_0029));
    assert_eq!(as_hex(&interrupt.aml(&NAMES)), INTERRUPT_BODY);
}

// spec: RES-12
#[test]
fn the_header_of_the_table_has_its_length_and_adds_up_to_zero() {
    for event in [GenerationEvent::Gpe(0xff), GenerationEvent::Interrupt(5)] {
        let table = device(event).ssdt(&NAMES);
        assert_eq!(table[..4], *b"SSDT");
        let len = u32::from_le_bytes(table[4..8].try_into().unwrap());
        assert_eq!(len as usize, table.len());
        assert_eq!(table[10..24], *b"VMSNAPVMGENID ");
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0);
        assert_eq!(table[36..], device(event).aml(&NAMES));
    }
}

// spec: RES-11
#[test]
fn an_id_lies_at_a_multiple_of_eight_and_in_the_address_space() {
    let at = |address| GenerationDevice::new(GuestAddress(address), GenerationEvent::Gpe(1));
    for bad in [4, 0xfff1, u64::MAX - 7, u64::MAX] {
        assert_eq!(
            at(bad),
            Err(BadGenerationAddress {
                address: GuestAddress(bad)
            })
        );
    }
    assert_eq!(at(0x6008).unwrap().address(), GuestAddress(0x6008));
}

#[test]
fn two_random_ids_differ_and_print_as_guids() {
    let (one, other) = (
        GenerationId::random().unwrap(),
        GenerationId::random().unwrap(),
    );
    assert_ne!(one, other);
    let counting = GenerationId(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    assert_eq!(counting.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
}
