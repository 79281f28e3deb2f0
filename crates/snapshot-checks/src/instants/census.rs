//! What the vCPUs of a snapshot were in: a suite that never sees a state proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use snapshot_format::state::VcpuX86;

/// `KVM_MP_STATE_*`.
const UNINITIALIZED: u32 = 1;
const INIT_RECEIVED: u32 = 2;
const HALTED: u32 = 3;

/// Where the local APIC page has the vectors in service, and those requested: eight words each,
/// sixteen bytes apart.
const IN_SERVICE: usize = 0x100;
const REQUESTED: usize = 0x200;
/// Initial and current count of its timer.
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
/// The deadline of its timer.
const TSC_DEADLINE: u32 = 0x6e0;

/// How often each state was seen, counted by vCPU but for the first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Census(BTreeMap<String, u64>);

impl Census {
    /// Counts `name`.
    pub(super) fn saw(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// Counts what `vcpu` is in.
    pub(super) fn count(&mut self, vcpu: &VcpuX86) {
        let word = |at: usize| {
            let bytes = vcpu.lapic.get(at..at + 4).unwrap_or_default();
            bytes.try_into().map_or(0, u32::from_le_bytes)
        };
        let any = |from: usize| (0..8).any(|number| word(from + 16 * number) != 0);
        let deadline = vcpu.msrs.iter().find(|msr| msr.index == TSC_DEADLINE);
        let states = [
            ("asleep", vcpu.mp_state == HALTED),
            ("not initialized", vcpu.mp_state == UNINITIALIZED),
            ("waiting for its start", vcpu.mp_state == INIT_RECEIVED),
            ("interrupt requested", any(REQUESTED)),
            ("interrupt in service", any(IN_SERVICE)),
            ("interrupt injected", vcpu.events.interrupt.injected != 0),
            (
                "exception on its way",
                vcpu.events.exception.injected != 0 || vcpu.events.exception.pending != 0,
            ),
            ("nmi waiting", vcpu.events.nmi.pending != 0),
            ("nmi in service", vcpu.events.nmi.masked != 0),
            (
                "interrupts held off once",
                vcpu.events.interrupt.shadow != 0,
            ),
            (
                "timer running",
                word(INITIAL_COUNT) != 0 && word(CURRENT_COUNT) != 0,
            ),
            ("deadline set", deadline.is_some_and(|msr| msr.value != 0)),
            ("breakpoint on", vcpu.debug.dr7 & 0xff != 0),
        ];
        for (name, _) in states.into_iter().filter(|(_, is_in)| *is_in) {
            self.saw(name);
        }
    }

    /// Adds what another one saw.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self
            .0
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        f.write_str(&counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_counts_in_each_state_that_it_is_in() {
        let mut lapic = vec![0; 0x400];
        lapic[REQUESTED + 32] = 1;
        let vcpu = VcpuX86 {
            mp_state: HALTED,
            lapic,
            ..VcpuX86::default()
        };
        let mut census = Census::default();
        census.count(&vcpu);
        let mut all = census.clone();
        all.add(&census);
        assert_eq!(all.to_string(), "asleep 2, interrupt requested 2");
    }
}
