//! The machine code of the proof programs, as the assembler of the compiler makes it.

// UNSAFETY: machine code as data, and the symbols at its parts.
#![expect(unsafe_code, reason = "the linker says where the code lies")]

use crate::kvm::board::{DEVICE_MEMORY, PORT_REPEATED, PORT_STREAM};
use crate::kvm::proof::{CR0, CR4, PML4};
use crate::program::{CODE, HEAP, INCREMENT, MULTIPLIER, PORT_ANSWER, PORT_DONE, PORT_PROGRESS};
use crate::proof::Program;

/// Interrupt descriptors, which the guest fills in: one page.
pub(in crate::kvm) const IDT: u64 = 0x9000;
pub(in crate::kvm) const IDT_LIMIT: u16 = 0xfff;
/// Segment descriptors.
pub(in crate::kvm) const GDT: u64 = 0xb000;
pub(in crate::kvm) const GDT_LIMIT: u16 = 0x17;
/// What a starting vCPU loads its table registers from.
pub(super) const GDT_POINTER: u64 = 0xb040;
pub(super) const IDT_POINTER: u64 = 0xb050;
/// What all vCPUs share.
pub(super) const SHARED: u64 = 0xc000;
pub(super) const ENTRY: u64 = 0;
pub(super) const CPUS: u64 = 8;
pub(super) const STEPS: u64 = 16;
/// 64 bytes for each vCPU.
const LINES: u64 = 0xd000;
/// A page for each vCPU.
const STACKS: u64 = 0x10000;

std::arch::global_asm!(
    include_str!("machine.s"),
    include_str!("token.s"),
    include_str!("timers.s"),
    include_str!("vectors.s"),
    include_str!("io.s"),
    include_str!("parked.s"),
    include_str!("breakpoints.s"),
    include_str!("nmi.s"),
    include_str!("clock.s"),
    CODE = const CODE,
    GDT_POINTER = const GDT_POINTER,
    IDT_POINTER = const IDT_POINTER,
    IDT = const IDT,
    SHARED = const SHARED,
    LINES = const LINES,
    STACKS = const STACKS,
    HEAP = const HEAP,
    DEVICE = const DEVICE_MEMORY.start,
    PORT_PROGRESS = const PORT_PROGRESS,
    PORT_ANSWER = const PORT_ANSWER,
    PORT_DONE = const PORT_DONE,
    PORT_REPEATED = const PORT_REPEATED,
    PORT_STREAM = const PORT_STREAM,
    ENTRY = const ENTRY,
    CPUS = const CPUS,
    STEPS = const STEPS,
    MULTIPLIER = const MULTIPLIER,
    INCREMENT = const INCREMENT,
    CR0 = const CR0,
    CR4 = const CR4,
    PML4 = const PML4,
);

unsafe extern "C" {
    static tinyvm_proof_image: u8;
    static tinyvm_proof_start: u8;
    static tinyvm_proof_token: u8;
    static tinyvm_proof_timers: u8;
    static tinyvm_proof_vectors: u8;
    static tinyvm_proof_io: u8;
    static tinyvm_proof_parked: u8;
    static tinyvm_proof_breakpoints: u8;
    static tinyvm_proof_clock: u8;
    static tinyvm_proof_nmi: u8;
    static tinyvm_proof_end: u8;
}

fn image() -> *const u8 {
    &raw const tinyvm_proof_image
}

/// Bytes from the start of the image to a symbol of it.
fn offset(symbol: *const u8) -> usize {
    symbol.addr() - image().addr()
}

/// The image, for address [`CODE`].
pub(super) fn code() -> &'static [u8] {
    let len = offset(&raw const tinyvm_proof_end);
    // SAFETY: the two symbols enclose the image, which is read-only data of this program.
    unsafe { std::slice::from_raw_parts(image(), len) }
}

/// Where the first vCPU begins.
pub(super) fn start() -> u64 {
    CODE + offset(&raw const tinyvm_proof_start) as u64
}

/// Offset of a program; `None` for the pattern, which is no part of the image.
pub(super) fn entry(program: Program) -> Option<u64> {
    let symbol = match program {
        Program::Pattern => return None,
        Program::Token => &raw const tinyvm_proof_token,
        Program::Timers => &raw const tinyvm_proof_timers,
        Program::Vectors => &raw const tinyvm_proof_vectors,
        Program::Io => &raw const tinyvm_proof_io,
        Program::Parked => &raw const tinyvm_proof_parked,
        Program::Breakpoints => &raw const tinyvm_proof_breakpoints,
        Program::Clock => &raw const tinyvm_proof_clock,
        Program::Nmi => &raw const tinyvm_proof_nmi,
    };
    Some(offset(symbol) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GENERATION_ADDRESS;

    #[test]
    fn the_image_fits_between_its_neighbours_and_holds_every_program() {
        let room = GENERATION_ADDRESS.0 - CODE;
        assert!(code().len() as u64 <= room, "{} bytes", code().len());
        // The vector of a start is a page number.
        assert_eq!((CODE % 4096, CODE >> 20), (0, 0));
        let mut entries: Vec<_> = Program::PROOFS.into_iter().map(entry).collect();
        entries.dedup();
        assert_eq!(entries.len(), Program::PROOFS.len());
        for offset in entries {
            assert!(offset.unwrap() < code().len() as u64);
        }
    }
}
