//! A guest that writes random pages, in 32-bit mode without paging: it reaches 4 GiB.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Where the program lies.
pub(super) const START: u64 = 0x1000;

/// The port that it writes to after each batch.
pub(super) const PORT: u16 = 0x10;

/// Pages that it writes between two visits to the port.
pub(super) const BATCH_PAGES: u8 = 64;

/// The machine code. What it writes lies in the second half of a page, and the code in the first.
pub(super) const PROGRAM: [u8; 34] = [
    // next:
    0x69,
    0xf6,
    0x0d,
    0x66,
    0x19,
    0x00, //  0: imul esi, esi, 1664525
    0x81,
    0xc6,
    0x5f,
    0xf3,
    0x6e,
    0x3c, //  6: add esi, 1013904223
    0x89,
    0xf3, //                         12: mov ebx, esi
    0x21,
    0xfb, //                         14: and ebx, edi        a page of the memory
    0x89,
    0xb3,
    0x00,
    0x08,
    0x00,
    0x00, // 16: mov [ebx+0x800], esi
    0x49, //                               22: dec ecx
    0x75,
    0xe7, //                         23: jnz next (0)
    0xe6,
    0x10, //                         25: out PORT, al
    0xb9,
    BATCH_PAGES,
    0x00,
    0x00,
    0x00, //27: mov ecx, BATCH_PAGES
    0xeb,
    0xde, //                         32: jmp next (0)
];

/// The registers at the start, for memory of `len_bytes` bytes, a power of two up to 4 GiB.
pub(super) fn registers(len_bytes: u64) -> kvm_regs {
    kvm_regs {
        rip: START,
        rflags: 2,
        rcx: BATCH_PAGES.into(),
        rsi: 0x5eed,
        // The page of the local APIC lies below 4 GiB: a store to it would leave the guest.
        rdi: (len_bytes.min(2 << 30) - 1) & 0xffff_f000,
        ..Default::default()
    }
}

/// Protection on, paging off, and segments over all addresses.
pub(super) fn protect(sregs: &mut kvm_sregs) {
    let segment = |selector, kind| kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cr0 |= 1;
    sregs.cs = segment(8, 0xb);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *data = segment(16, 3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_and_operands_are_where_the_comments_say() {
        let target = |at: usize| {
            let distance = isize::from(PROGRAM[at + 1].cast_signed());
            (at + 2).checked_add_signed(distance).unwrap()
        };
        assert_eq!((target(23), target(32)), (0, 0));
        assert_eq!(u16::from(PROGRAM[26]), PORT);
        assert_eq!(registers(4 << 30).rdi, 0x7fff_f000);
        assert_eq!(registers(256 << 20).rdi, 0x0fff_f000);
    }
}
