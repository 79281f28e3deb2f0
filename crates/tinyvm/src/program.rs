//! The guest's program, as documented machine code, and the memory that it starts in.
//!
//! A linear congruential generator names, step by step, a page of the heap and the eight bytes
//! that go to its start. Every 64 steps the guest reports how far it is, asks the host for a
//! number, and folds the answer into a checksum: an answer that a snapshot loses, or asks for
//! twice, changes the end. A vector register is loaded at the start and stored at the end, to
//! prove that it was carried along.

use snapshot_format::PAGE_BYTES;
use snapshot_format::state::Registers;
use snapshot_memory::{MappedMemory, MemoryError};

use crate::config::GuestConfig;

/// Port that the guest writes the number of steps done to.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) const PORT_PROGRESS: u16 = 0x510;
/// Port that it reads numbers from.
pub(crate) const PORT_ANSWER: u16 = 0x514;
/// Port that it writes the checksum to at the end.
pub(crate) const PORT_DONE: u16 = 0x518;

/// Steps from one report to the next.
pub(crate) const REPORT_STEPS: u64 = 64;

/// Multiplier and increment of the generator: Knuth's MMIX.
pub(crate) const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
pub(crate) const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// Page tables: one entry each in the upper two levels, and a directory of 2 MiB pages.
pub(crate) const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
/// The program.
pub(crate) const CODE: u64 = 0x4000;
/// What the vector register is loaded from, and stored to at the end.
pub(crate) const VECTOR_IN: u64 = 0x5000;
pub(crate) const VECTOR_OUT: u64 = 0x5010;
/// The first byte of the heap.
pub(crate) const HEAP: u64 = 1 << 20;

/// Present, writable, accessed, dirty. The last two are set beforehand so that the CPU does not
/// set them: memory then depends on the program alone.
const TABLE_FLAGS: u64 = 0x23;
const LARGE_PAGE_FLAGS: u64 = 0xe3;
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// What `VECTOR_IN` holds.
const VECTOR: [u8; 16] = *b"vector registers";

/// The machine code, for address [`CODE`].
pub(crate) const PROGRAM: [u8; 110] = [
    0xf3, 0x0f, 0x6f, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00, //  0: movdqu xmm0, [VECTOR_IN]
    // next:
    0x49, 0x0f, 0xaf, 0xc0, //          9: imul rax, r8       the generator's next number
    0x4c, 0x01, 0xc8, //               13: add rax, r9
    0x48, 0x89,
    0xc3, //               16: mov rbx, rax       its upper half, scaled to the heap,
    0x48, 0xc1, 0xeb, 0x20, //         19: shr rbx, 32
    0x49, 0x0f, 0xaf, 0xda, //         23: imul rbx, r10      names a page
    0x48, 0xc1, 0xeb, 0x20, //         27: shr rbx, 32
    0x48, 0xc1, 0xe3, 0x0c, //         31: shl rbx, 12
    0x48, 0x89, 0x04, 0x1f, //         35: mov [rdi+rbx], rax
    0x48, 0xff, 0xc1, //               39: inc rcx            one step more
    0xf6, 0xc1, 0x3f, //               42: test cl, 63
    0x75, 0x1c, //                     45: jnz more (75)
    0x49, 0x89, 0xc4, //               47: mov r12, rax
    0x89, 0xc8, //                     50: mov eax, ecx
    0xba, 0x10, 0x05, 0x00, 0x00, //   52: mov edx, PORT_PROGRESS
    0xef, //                           57: out dx, eax
    0xba, 0x14, 0x05, 0x00, 0x00, //   58: mov edx, PORT_ANSWER
    0xed, //                           63: in eax, dx         clears the upper half of rax
    0x4d, 0x0f, 0xaf, 0xd8, //         64: imul r11, r8       the checksum
    0x49, 0x01, 0xc3, //               68: add r11, rax
    0x4c, 0x89, 0xe0, //               71: mov rax, r12
    0x90, //                           74: nop
    // more:
    0x48, 0x39, 0xf1, //               75: cmp rcx, rsi       all steps done?
    0x72, 0xb9, //                     78: jb next (9)
    0xf3, 0x0f, 0x7f, 0x04, 0x25, 0x10, 0x50, 0x00, 0x00, // 80: movdqu [VECTOR_OUT], xmm0
    0x44, 0x89, 0xd8, //               89: mov eax, r11d
    0xba, 0x18, 0x05, 0x00, 0x00, //   92: mov edx, PORT_DONE
    0xef, //                           97: out dx, eax
    // stop:
    0xf4, //                           98: hlt
    0xeb, 0xfd, //                     99: jmp stop (98)
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // 101: padding
];

/// Offset of the instruction after the write of a step.
pub(crate) const STORED_OFFSET: u64 = 39;

/// Offset of the instruction after that which stores the vector register.
pub(crate) const VECTOR_STORED_OFFSET: u64 = 89;

/// Offset of the instruction after the last `out`.
pub(crate) const END_OFFSET: u64 = 98;

/// Flags at the end: the comparison found both equal (zero, parity), and the bit that is always 1.
pub(crate) const END_FLAGS: u64 = 0x46;

/// The registers that the program starts with.
pub(crate) fn entry_registers(config: &GuestConfig) -> Registers {
    Registers {
        rax: config.seed,
        rsi: config.steps,
        rdi: HEAP,
        r8: MULTIPLIER,
        r9: INCREMENT,
        r10: heap_pages(config),
        rip: CODE,
        rflags: 2,
        ..Registers::default()
    }
}

/// Pages of the heap.
pub(crate) fn heap_pages(config: &GuestConfig) -> u64 {
    config.page_count() - HEAP / PAGE_BYTES
}

/// Puts page tables, program and data into fresh memory, and fills the first half of the heap.
pub(crate) fn load(config: &GuestConfig, memory: &MappedMemory) -> Result<(), MemoryError> {
    load_page_tables(memory)?;
    memory.write(CODE, &PROGRAM)?;
    memory.write(VECTOR_IN, &VECTOR)?;
    fill_heap(config, memory)
}

/// Page tables that map the first GiB to itself.
pub(crate) fn load_page_tables(memory: &MappedMemory) -> Result<(), MemoryError> {
    memory.write(PML4, &(PDPT | TABLE_FLAGS).to_le_bytes())?;
    load_directory(memory, PAGE_DIRECTORY, 0)
}

/// A page directory that maps one GiB, number `gib`, to itself.
pub(crate) fn load_directory(
    memory: &MappedMemory,
    directory: u64,
    gib: u64,
) -> Result<(), MemoryError> {
    memory.write(PDPT + gib * 8, &(directory | TABLE_FLAGS).to_le_bytes())?;
    let entries: Vec<u8> = (gib * 512..(gib + 1) * 512)
        .flat_map(|number| ((number * LARGE_PAGE_BYTES) | LARGE_PAGE_FLAGS).to_le_bytes())
        .collect();
    memory.write(directory, &entries)
}

/// Fills the first half of the heap.
pub(crate) fn fill_heap(config: &GuestConfig, memory: &MappedMemory) -> Result<(), MemoryError> {
    let mut state = config.seed;
    for page in 0..heap_pages(config) / 2 {
        let words = (0..PAGE_BYTES / 8).flat_map(|_| {
            state = next(state);
            state.to_le_bytes()
        });
        let bytes: Vec<u8> = words.collect();
        memory.write(HEAP + page * PAGE_BYTES, &bytes)?;
    }
    Ok(())
}

/// The generator's next number.
pub(crate) fn next(state: u64) -> u64 {
    state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_and_operands_of_the_program_are_where_its_comments_say() {
        let operand = |at: usize| u32::from_le_bytes(PROGRAM[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from(operand(5)), VECTOR_IN);
        assert_eq!(operand(53), u32::from(PORT_PROGRESS));
        assert_eq!(operand(59), u32::from(PORT_ANSWER));
        assert_eq!(u64::from(operand(85)), VECTOR_OUT);
        assert_eq!(operand(93), u32::from(PORT_DONE));
        let target = |at: usize| {
            let distance = isize::from(PROGRAM[at + 1].cast_signed());
            (at + 2).checked_add_signed(distance).unwrap()
        };
        assert_eq!((target(45), target(78), target(99)), (75, 9, 98));
        assert_eq!(u64::from(PROGRAM[44]), REPORT_STEPS - 1);
        assert_eq!(PROGRAM[98], 0xf4);
    }
}
