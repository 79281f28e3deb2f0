//! The fields of a machine that stands still and that KVM still moves.

use hypervisor_bridge::Moving;
use snapshot_format::SectionKind;

/// What may differ between a snapshot and a capture of the machine that it was restored into,
/// although no vCPU has run: counters of the host that never stop, and what is computed from them.
pub const MOVING_FIELDS: &[Moving] = &[
    vcpu(
        "msrs[0x10].value",
        "the time stamp counter follows the host's",
    ),
    vcpu(
        "tsc_offset",
        "it is computed anew, from the host's time stamp counter",
    ),
    vcpu(
        "lapic[0x390]",
        "the current count of a local APIC timer that runs",
    ),
    vm("clock.clock_ns", "the clock runs from when it is set"),
    vm("clock.host_tsc", "the host's time stamp counter"),
    vm("clock.realtime_ns", "the host's time of day"),
    vm(
        "pit.channels[*].count_load_time",
        "a time of the host's own clock, computed from the count",
    ),
    Moving {
        bits: 1,
        ..vm(
            "pic_master.irr",
            "a tick of the PIT, which runs from when it is set, waits at line 0",
        )
    },
];

const fn vcpu(field: &'static str, why: &'static str) -> Moving {
    Moving {
        section: SectionKind::VCPU_X86_64,
        field,
        bits: u64::MAX,
        why,
    }
}

const fn vm(field: &'static str, why: &'static str) -> Moving {
    Moving {
        section: SectionKind::VM_X86_64,
        field,
        bits: u64::MAX,
        why,
    }
}
