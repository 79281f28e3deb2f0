//! The fields of an aarch64 machine that stands still and that its host moves.

use snapshot_format::SectionKind;

use super::Moving;

/// What may differ between a snapshot and a capture of the aarch64 machine that it was restored
/// into, although no vCPU has run: counters that never stop, and what is read against them. The
/// same whoever keeps the state.
pub const MOVING_ARM64: &[Moving] = &[
    vcpu(
        "timers.virtual_count",
        "the virtual counter runs from when it is set",
    ),
    vcpu("timers.physical_count", "the host's own counter"),
    vcpu(
        "timers.physical_timer.compare",
        "it is set as far ahead of the host's own counter as it was",
    ),
    Moving {
        bits: STATUS,
        ..vcpu(
            "timers.virtual_timer.control",
            "whether the counter has passed the comparator",
        )
    },
    Moving {
        bits: STATUS,
        ..vcpu(
            "timers.physical_timer.control",
            "whether the counter has passed the comparator",
        )
    },
    Moving {
        section: SectionKind::VM_AARCH64,
        ..vcpu("wall_clock_ns", "the host's time of day")
    },
];

/// `ISTATUS` of a timer's control register (Arm Architecture Reference Manual, `CNTV_CTL_EL0`).
const STATUS: u64 = 1 << 2;

const fn vcpu(field: &'static str, why: &'static str) -> Moving {
    Moving {
        section: SectionKind::VCPU_AARCH64,
        field,
        bits: u64::MAX,
        why,
    }
}
