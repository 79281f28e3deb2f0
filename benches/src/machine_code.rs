//! The guest's program, in its memory since before it was frozen.
//!
//! Real mode, because nothing has to be set up for it. One `out` is the first instruction; the
//! rest writes a page and tells the host.

/// The page that the program lies in.
pub(crate) const PAGE: u64 = 1;

/// Where it begins.
pub(crate) const START: u64 = PAGE * 4096;

/// What it writes to: the first byte of another page.
pub(crate) const WRITTEN: u64 = (PAGE + 1) * 4096;

/// Bytes that the guest writes to: one page.
pub(crate) const WRITTEN_BYTES: u64 = 4096;

/// The port that it writes to.
pub(crate) const PORT: u16 = 0x10;

/// What it has in `al` at the first `out`, and at the second.
pub(crate) const FIRST: u8 = 0;
pub(crate) const SECOND: u8 = 0x5a;

const PROGRAM: [u8; 10] = [
    0xe6, 0x10, //       out PORT, al     the first instruction
    0xb0, 0x5a, //       mov al, SECOND
    0xa2, 0x00, 0x20, // mov [0x2000], al
    0xe6, 0x10, //       out PORT, al
    0xf4, //             hlt
];

/// Fills the page of the program.
pub(crate) fn fill(page: &mut [u8]) {
    page.fill(0);
    for (to, byte) in page.iter_mut().zip(PROGRAM) {
        *to = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_where_the_comments_say() {
        assert_eq!(u16::from(PROGRAM[1]), PORT);
        assert_eq!(PROGRAM[3], SECOND);
        let written = u16::from_le_bytes([PROGRAM[5], PROGRAM[6]]);
        assert_eq!(u64::from(written), WRITTEN);
    }
}
