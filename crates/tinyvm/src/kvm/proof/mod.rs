//! The proof programs: their machine code, and the memory and registers that they start with.

mod image;

use snapshot_memory::{MappedMemory, MemoryError};

use super::boot::{CR0, CR4};
use crate::config::GuestConfig;
use crate::program::{CODE, PML4, fill_heap, load_directory, load_page_tables};
use crate::proof::Program;

pub(super) use image::{GDT, GDT_LIMIT, IDT, IDT_LIMIT};

/// The page directory of the GiB that holds the IOAPIC.
const DEVICE_DIRECTORY: u64 = 0x8000;
const DEVICE_GIB: u64 = 3;

/// Descriptors: none, code, data.
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Puts page tables, descriptors, code and parameters into fresh memory, and fills half the heap.
pub(super) fn load(config: &GuestConfig, memory: &MappedMemory) -> Result<(), MemoryError> {
    load_page_tables(memory)?;
    load_directory(memory, DEVICE_DIRECTORY, DEVICE_GIB)?;
    memory.write(CODE, image::code())?;
    let descriptors: Vec<u8> = DESCRIPTORS.into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write(GDT, &descriptors)?;
    let pointers = [
        (image::GDT_POINTER, GDT, GDT_LIMIT),
        (image::IDT_POINTER, IDT, IDT_LIMIT),
    ];
    for (address, table, limit) in pointers {
        memory.write(address, &limit.to_le_bytes())?;
        memory.write(address + 2, &table.to_le_bytes())?;
    }
    let parameters = [
        (image::ENTRY, entry(config.program)),
        (image::CPUS, config.program.vcpu_count() as u64),
        (image::STEPS, config.steps),
    ];
    for (offset, value) in parameters {
        memory.write(image::SHARED + offset, &value.to_le_bytes())?;
    }
    fill_heap(config, memory)
}

/// Where the first vCPU begins.
pub(super) fn start() -> u64 {
    image::start()
}

/// Where vCPUs go once they run.
fn entry(program: Program) -> u64 {
    image::entry(program).map_or(CODE, |offset| CODE + offset)
}
