//! How a machine ended.

use std::collections::BTreeMap;

use snapshot_format::state::VcpuX86;
use snapshot_memory::GuestMemorySource;

use super::board::Board;
use super::extended;
use crate::digest::{digest_of, generation_of};
use crate::error::GuestError;
use crate::guest::{Outcome, named};
use crate::proof::Program;

/// The end of a guest whose vCPUs stand still.
pub(super) fn of(
    program: Program,
    memory: &dyn GuestMemorySource,
    vcpus: &[VcpuX86],
    board: &Board,
) -> Result<Outcome, GuestError> {
    if let (Program::Pattern, Some(first)) = (program, vcpus.first()) {
        return Outcome::new(memory, &first.registers, &board.port);
    }
    let registers = vcpus.iter().flat_map(registers);
    Ok(Outcome {
        memory_digest: digest_of(memory)?,
        generation: generation_of(memory)?,
        registers: registers.collect(),
        checksum: board.checksum(),
        steps: board.port.steps,
        repeated: board.repeated(),
    })
}

/// What is compared of one vCPU.
fn registers(vcpu: &VcpuX86) -> BTreeMap<String, String> {
    let prefix = match vcpu.id {
        0 => String::new(),
        id => format!("vcpu{id}."),
    };
    let mut all: BTreeMap<_, _> = named(&prefix, &vcpu.registers).collect();
    let debug = &vcpu.debug;
    for (number, value) in (0..).zip(debug.db).chain([(6, debug.dr6), (7, debug.dr7)]) {
        all.insert(format!("{prefix}dr{number}"), format!("{value:#x}"));
    }
    let special = &vcpu.special;
    let control = [
        ("cr0", special.cr0),
        ("cr3", special.cr3),
        ("cr4", special.cr4),
        ("efer", special.efer),
        ("apic_base", special.apic_base),
    ];
    for (name, value) in control {
        all.insert(format!("{prefix}{name}"), format!("{value:#x}"));
    }
    for xcr in &vcpu.xcrs {
        all.insert(
            format!("{prefix}xcr{}", xcr.index),
            format!("{:#x}", xcr.value),
        );
    }
    let extended = extended::digest(&vcpu.xsave).to_string();
    all.insert(format!("{prefix}xsave"), extended);
    all.insert(format!("{prefix}mp_state"), vcpu.mp_state.to_string());
    all
}
