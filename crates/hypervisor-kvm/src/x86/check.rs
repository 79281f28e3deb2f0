//! Does saved state fit a machine? Every reason why not, found without touching it.

use kvm_bindings as kvm;
use snapshot_format::state::{
    ByteStateError, GsiRoute, Reason, VcpuEvents, VcpuX86, VmX86, fit_bytes,
};

use crate::lists::read;
use crate::x86::interface::Interface;
use crate::x86::nested;
use crate::x86::save::{GUEST_SSP, LAPIC_BYTES};
use crate::x86::vm::{Irqchip, KernelDevices};

/// Parts of the events that this build knows.
pub(super) const EVENT_FLAGS: u32 = kvm::KVM_VCPUEVENT_VALID_NMI_PENDING
    | kvm::KVM_VCPUEVENT_VALID_SIPI_VECTOR
    | kvm::KVM_VCPUEVENT_VALID_SHADOW
    | kvm::KVM_VCPUEVENT_VALID_SMM
    | kvm::KVM_VCPUEVENT_VALID_PAYLOAD
    | kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

/// Parts of the events that count only if the VMM enabled a capability, which is each.
const ENABLED_BY: [(u32, u32); 2] = [
    (
        kvm::KVM_VCPUEVENT_VALID_PAYLOAD,
        kvm::KVM_CAP_EXCEPTION_PAYLOAD,
    ),
    (
        kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
        kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    ),
];

/// Pins of the chips, by `KVM_IRQCHIP_*`.
const CHIP_PINS: [u32; 3] = [8, 8, 24];
/// `KVM_IRQ_ROUTING_XEN_EVTCHN`, the last kind of route.
const LAST_ROUTE_KIND: u32 = 5;
/// `KVM_MAX_IRQ_ROUTES`: lines that there may be.
const LINES: u32 = 4096;

/// Where the XSAVE header has which components are there, and the mark of the compacted format.
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
/// The leaf of CPUID that says where each component is.
const XSAVE_LEAF: u32 = 0xd;
/// Every host's XSAVE area is at least as long.
const LEAST_XSAVE_BYTES: usize = size_of::<kvm::kvm_xsave>();

/// What saved state is to fit.
pub(super) struct Target<'t> {
    pub(super) interface: &'t Interface,
    pub(super) devices: KernelDevices,
    pub(super) vcpu_count: usize,
    /// Which parts of the events the machine gives: what the VMM enabled.
    pub(super) event_flags: u32,
}

impl Target<'_> {
    /// How the saved machine is built otherwise than this one.
    pub(super) fn machine(&self, vcpus: &[VcpuX86], vm: &VmX86) -> Vec<Reason> {
        let devices = self.devices;
        let counted = usize::try_from(vm.vcpu_count).unwrap_or(usize::MAX);
        let kernel = usize::from(devices.irqchip == Irqchip::Kernel);
        let pics = [&vm.pic_master, &vm.pic_slave];
        let saved_pics = pics.into_iter().flatten().count();
        let lines = |lines: Option<u32>| lines.map_or(0, |lines| lines as usize);
        let pairs = [
            ("vCPUs", counted, self.vcpu_count),
            ("vCPU sections", vcpus.len(), counted),
            (
                "in-kernel interrupt controllers",
                vm.ioapic.is_some().into(),
                kernel,
            ),
            ("in-kernel i8259 controllers", saved_pics, 2 * kernel),
            (
                "split interrupt controllers",
                vm.split_lines.is_some().into(),
                devices.split_lines().is_some().into(),
            ),
            (
                "lines of a split interrupt controller",
                lines(vm.split_lines),
                lines(devices.split_lines()),
            ),
            (
                "in-kernel timers",
                vm.pit.is_some().into(),
                devices.pit.into(),
            ),
        ];
        let differ = pairs
            .into_iter()
            .filter(|(_, saved, target)| saved != target);
        let mut reasons: Vec<_> = differ
            .map(|(what, saved, target)| Reason::Shape {
                what,
                saved: saved as u64,
                target: target as u64,
            })
            .collect();
        let routes = vm.routes.iter().flatten();
        let bad = routes.filter(|route| !self.takes(route));
        reasons.extend(bad.map(|route| Reason::Route {
            gsi: route.gsi,
            kind: route.kind,
        }));
        reasons
    }

    fn takes(&self, route: &GsiRoute) -> bool {
        let to_chip = route.chip().is_none_or(|(chip, pin)| {
            let pins = usize::try_from(chip).ok().and_then(|c| CHIP_PINS.get(c));
            self.devices.irqchip == Irqchip::Kernel && pins.is_some_and(|pins| pin < *pins)
        });
        let known = (1..=LAST_ROUTE_KIND).contains(&route.kind) && route.flags <= 1;
        to_chip && known && route.gsi < LINES && self.devices.has_local_apics()
    }

    /// What this machine does not take of the vCPU that is in section `vcpu`.
    pub(super) fn vcpu(&self, vcpu: u32, saved: &VcpuX86) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if saved.id != vcpu {
            reasons.push(Reason::Shape {
                what: "as the number of a vCPU",
                saved: saved.id.into(),
                target: vcpu.into(),
            });
        }
        self.check_run_state(vcpu, saved, &mut reasons);
        self.check_events(vcpu, &saved.events, &mut reasons);
        self.check_registers(vcpu, saved, &mut reasons);
        self.check_xsave(vcpu, saved, &mut reasons);
        self.check_lapic(vcpu, &saved.lapic, &mut reasons);
        self.check_nested(vcpu, &saved.nested, &mut reasons);
        reasons
    }

    fn check_run_state(&self, vcpu: u32, saved: &VcpuX86, reasons: &mut Vec<Reason>) {
        let state = saved.mp_state;
        let known = match state {
            kvm::KVM_MP_STATE_RUNNABLE => true,
            // The kernel latches an INIT, and has no vector to start at, in system management mode.
            kvm::KVM_MP_STATE_INIT_RECEIVED | kvm::KVM_MP_STATE_SIPI_RECEIVED => {
                self.devices.has_local_apics()
                    && (saved.events.smi.smm, saved.events.smi.pending) == (0, 0)
            }
            // Without local APICs in the kernel the VMM keeps these.
            kvm::KVM_MP_STATE_UNINITIALIZED
            | kvm::KVM_MP_STATE_HALTED
            | kvm::KVM_MP_STATE_AP_RESET_HOLD => self.devices.has_local_apics(),
            _ => false,
        };
        if !known {
            reasons.push(Reason::RunState { vcpu, state });
        }
    }

    fn check_events(&self, vcpu: u32, events: &VcpuEvents, reasons: &mut Vec<Reason>) {
        let unknown = events.flags & !EVENT_FLAGS;
        if unknown != 0 {
            reasons.push(Reason::Value {
                vcpu,
                what: "flags of events at offset",
                number: 0x24,
                value: unknown.into(),
            });
        }
        for (flag, number) in ENABLED_BY {
            if events.flags & flag & !self.event_flags != 0 {
                reasons.push(Reason::NotEnabled { vcpu, number });
            }
        }
        let smm = [
            events.smi.smm,
            events.smi.pending,
            events.smi.smm_inside_nmi,
        ];
        if smm != [0; 3] && !self.interface.offers(kvm::KVM_CAP_X86_SMM) {
            let number = kvm::KVM_CAP_X86_SMM;
            reasons.push(Reason::Capability { number });
        }
    }

    fn check_registers(&self, vcpu: u32, saved: &VcpuX86, reasons: &mut Vec<Reason>) {
        let mut refuse = |what, number, value| {
            reasons.push(Reason::Value {
                vcpu,
                what,
                number,
                value,
            });
        };
        if saved.debug.flags != 0 {
            refuse(
                "flags of debug registers at offset",
                0x30,
                saved.debug.flags,
            );
        }
        for (number, value) in [(6, saved.debug.dr6), (7, saved.debug.dr7)] {
            if value >> 32 != 0 {
                refuse("debug register", number, value);
            }
        }
        let components = self.interface.xsave_components();
        for xcr in &saved.xcrs {
            // Only the first exists, whose lowest bit always is set.
            let fits = xcr.value & !components == 0 && xcr.value & 1 != 0;
            if xcr.index != 0 || !fits {
                refuse("extended control register", xcr.index.into(), xcr.value);
            }
        }
        if let Some(ssp) = saved.guest_ssp
            && !self.interface.has_shadow_stacks()
        {
            refuse("register", GUEST_SSP, ssp);
        }
    }

    fn check_xsave(&self, vcpu: u32, saved: &VcpuX86, reasons: &mut Vec<Reason>) {
        let bytes = &saved.xsave;
        let (what, stored) = ("XSAVE", bytes.len());
        let mut misfit = |problem| {
            reasons.push(Reason::Bytes {
                vcpu,
                what,
                problem,
            });
        };
        if stored < LEAST_XSAVE_BYTES {
            let least = LEAST_XSAVE_BYTES;
            misfit(ByteStateError::Short { stored, least });
            return;
        }
        let present: u64 = read(bytes, XSTATE_BV);
        for leaf in &saved.cpuid {
            let is_component = leaf.function == XSAVE_LEAF && (2..64).contains(&leaf.index);
            let end = (leaf.ebx as usize).saturating_add(leaf.eax as usize);
            if is_component && present >> leaf.index & 1 != 0 && end > stored {
                misfit(ByteStateError::Short { stored, least: end });
            }
        }
        if let Err(problem) = fit_bytes(bytes, self.interface.xsave_bytes) {
            misfit(problem);
        }
        let compacted: u64 = read(bytes, XCOMP_BV);
        let foreign = present & !self.interface.xsave_components();
        let fields = [(XSTATE_BV, foreign), (XCOMP_BV, compacted)];
        for (number, value) in fields.into_iter().filter(|(_, value)| *value != 0) {
            reasons.push(Reason::Value {
                vcpu,
                what: "XSAVE at offset",
                number: number as u64,
                value,
            });
        }
    }

    fn check_lapic(&self, vcpu: u32, saved: &[u8], reasons: &mut Vec<Reason>) {
        let (what, stored) = ("the local APIC", saved.len());
        let wanted = if self.devices.has_local_apics() {
            LAPIC_BYTES
        } else {
            0
        };
        let problem = if stored < wanted {
            Some(ByteStateError::Short {
                stored,
                least: wanted,
            })
        } else if stored > wanted && wanted == 0 {
            // A page of zeros would be lost as well: the VMM models another one.
            Some(ByteStateError::Lost {
                stored,
                wanted,
                first_lost: 0,
            })
        } else {
            fit_bytes(saved, wanted).err()
        };
        reasons.extend(problem.map(|problem| Reason::Bytes {
            vcpu,
            what,
            problem,
        }));
    }

    fn check_nested(&self, vcpu: u32, saved: &[u8], reasons: &mut Vec<Reason>) {
        if saved.is_empty() {
            return;
        }
        let (what, stored) = ("nested state", saved.len());
        let said: u32 = read(saved, nested::SIZE_AT);
        let least = (said as usize).max(nested::HEADER_BYTES);
        let wanted = self.interface.nested_bytes;
        let problem = if stored < least {
            Some(ByteStateError::Short { stored, least })
        } else if wanted == 0 {
            if nested::is_in_use(saved) {
                let number = kvm::KVM_CAP_NESTED_STATE;
                reasons.push(Reason::Capability { number });
            }
            None
        } else {
            fit_bytes(saved, wanted).err()
        };
        reasons.extend(problem.map(|problem| Reason::Bytes {
            vcpu,
            what,
            problem,
        }));
    }
}
