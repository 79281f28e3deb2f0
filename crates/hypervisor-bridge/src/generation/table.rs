//! The ACPI table that announces a generation id.

use super::{GenerationDevice, GenerationEvent};

/// What the VMM calls itself in ACPI: padded with blanks, or for `hid` with nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiNames {
    /// `OEMID`.
    pub oem: [u8; 6],
    /// `OEM Table ID`.
    pub table: [u8; 8],
    /// `_HID` of the device: a vendor's four capitals and four hexadecimal digits, the VMM's own.
    pub hid: [u8; 8],
}

/// `\_SB.VGEN` as an AML name string.
const DEVICE_PATH: [u8; 10] = *b"\x5c\x2e_SB_VGEN";
/// What Windows and Linux find the device by.
const COMPATIBLE_ID: &[u8] = b"VM_Gen_Counter";
/// The notification for a new id.
const CHANGED: u8 = 0x80;

const NAME: u8 = 0x08;
const BYTE: u8 = 0x0a;
const DWORD: u8 = 0x0c;
const STRING: u8 = 0x0d;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;
const METHOD: u8 = 0x14;
const ARGUMENT_0: u8 = 0x68;
const NOTIFY: u8 = 0x86;
const EQUAL: u8 = 0x93;
const IF: u8 = 0xa0;
const DEVICE: [u8; 2] = [0x5b, 0x82];

/// Method flags: one argument, serialized.
const ONE_ARGUMENT_SERIALIZED: u8 = 1 | 1 << 3;
/// Extended interrupt descriptor: tag, and flags for a consumed, edge-triggered, active-high,
/// exclusive interrupt.
const INTERRUPT: u8 = 0x89;
const INTERRUPT_FLAGS: u8 = 0b11;
const END_TAG: [u8; 2] = [0x79, 0];

impl GenerationDevice {
    /// The whole secondary table (`SSDT`), checksum included, for the guest's first boot.
    ///
    /// It holds the device `\_SB.VGEN` and what turns the event into its notification: a method
    /// of `\_GPE`, or a generic event device `\_SB.VGED`, which needs no ACPI hardware. The VMM
    /// puts it into guest memory and its address into the root table.
    #[must_use]
    pub fn ssdt(&self, names: &AcpiNames) -> Vec<u8> {
        let body = self.aml(names);
        let len_bytes = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        let mut table = Vec::with_capacity(HEADER_BYTES + body.len());
        table.extend(b"SSDT");
        table.extend(len_bytes.to_le_bytes());
        table.extend([REVISION, 0]);
        table.extend(names.oem);
        table.extend(names.table);
        table.extend(1_u32.to_le_bytes());
        table.extend(CREATOR);
        table.extend(1_u32.to_le_bytes());
        table.extend(body);
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(checksum) = table.get_mut(CHECKSUM_AT) {
            *checksum = sum.wrapping_neg();
        }
        table
    }

    /// The body of that table, for a VMM that puts it into its main one (`DSDT`).
    #[must_use]
    pub fn aml(&self, names: &AcpiNames) -> Vec<u8> {
        let [low, high] = [0, 32].map(|shift| dword(self.address.0 >> shift));
        let halves = [&[2][..], &low, &high].concat();
        let device = [
            b"VGEN".to_vec(),
            name(*b"_HID", &string(&names.hid)),
            name(*b"_CID", &string(COMPATIBLE_ID)),
            name(*b"_DDN", &string(COMPATIBLE_ID)),
            name(*b"ADDR", &block(&[PACKAGE], &halves)),
        ];
        let device = block(&DEVICE, &device.concat());
        let notify = [&[NOTIFY][..], &DEVICE_PATH, &[BYTE, CHANGED]].concat();
        match self.event {
            GenerationEvent::Gpe(number) => {
                let [high, low] = hex(number);
                let method = [&[b'_', b'E', high, low, 0][..], &notify].concat();
                let events = [b"\x5c_GPE".to_vec(), block(&[METHOD], &method)];
                [scope(&[device]), block(&[SCOPE], &events.concat())].concat()
            }
            GenerationEvent::Interrupt(number) => scope(&[device, event_device(number, &notify)]),
        }
    }
}

const HEADER_BYTES: usize = 36;
const CHECKSUM_AT: usize = 9;
/// Of the table: integers have 64 bits.
const REVISION: u8 = 2;
const CREATOR: [u8; 4] = *b"VMSN";

/// A generic event device that turns interrupt `number` into `notify`.
fn event_device(number: u32, notify: &[u8]) -> Vec<u8> {
    let line = dword(number.into());
    let [_, number @ ..] = line;
    let descriptor = [&[INTERRUPT, 6, 0, INTERRUPT_FLAGS, 1][..], &number].concat();
    let resources = [&descriptor[..], &END_TAG].concat();
    let size = u8::try_from(resources.len()).unwrap_or(u8::MAX);
    let buffer = block(&[BUFFER], &[&[BYTE, size][..], &resources].concat());
    let asked = [&[EQUAL, ARGUMENT_0][..], &line].concat();
    let body = block(&[IF], &[&asked[..], notify].concat());
    let method = [&b"_EVT"[..], &[ONE_ARGUMENT_SERIALIZED], &body].concat();
    let device = [
        b"VGED".to_vec(),
        name(*b"_HID", &string(b"ACPI0013")),
        name(*b"_UID", &string(b"VGEN")),
        name(*b"_CRS", &buffer),
        block(&[METHOD], &method),
    ];
    block(&DEVICE, &device.concat())
}

/// `\_SB` with these objects in it.
fn scope(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut inside = b"\x5c_SB_".to_vec();
    inside.extend(objects.concat());
    block(&[SCOPE], &inside)
}

fn name(name: [u8; 4], value: &[u8]) -> Vec<u8> {
    [&[NAME][..], &name, value].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    [&[STRING][..], text, &[0]].concat()
}

/// An object with a length in front, which counts itself.
fn block(opcode: &[u8], inside: &[u8]) -> Vec<u8> {
    // Up to 63 in the lead byte; else its four low bits, and its two high ones say that one more
    // byte follows.
    let (short, long) = (inside.len() + 1, inside.len() + 2);
    let length = if short < 0x40 {
        vec![low_byte(short)]
    } else {
        vec![0x40 | low_byte(long) & 0xf, low_byte(long >> 4)]
    };
    [opcode, &length, inside].concat()
}

/// The low half of `number` as a constant.
fn dword(number: u64) -> [u8; 5] {
    let [a, b, c, d, ..] = number.to_le_bytes();
    [DWORD, a, b, c, d]
}

fn low_byte(number: usize) -> u8 {
    u8::try_from(number & 0xff).unwrap_or(0)
}

/// Two capital hexadecimal digits.
fn hex(number: u8) -> [u8; 2] {
    let digit = |nibble: u8| {
        if nibble < 10 {
            b'0' + nibble
        } else {
            b'A' + nibble - 10
        }
    };
    [digit(number >> 4), digit(number & 0xf)]
}
