//! The order and the arguments of requests, and what is refused, without KVM.

mod controller;
mod kernel;
mod order;
mod refusals;
mod round_trip;
mod vcpu;

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore, StepError};
use snapshot_format::state::{
    Fingerprint, GicV2, GicV3, KvmInit, Reason, SystemRegister, SystemRegisterId, VcpuArm64,
    VmArm64,
};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};

use controller::{Controller, Kind};
use kernel::Kernel;
use vcpu::Host;

use super::machine::{KernelDevices, KvmMachine, KvmOptions};
use super::{abi, interface};
use crate::calls::Calls;

/// PSCI, performance monitors, and vectors if asked.
fn features(has_sve: bool) -> KvmInit {
    let mut init = KvmInit {
        target: 5,
        features: [0; 7],
    };
    for (feature, is_on) in [
        (abi::VCPU_PSCI_0_2, true),
        (abi::VCPU_PMU_V3, true),
        (abi::VCPU_SVE, has_sve),
    ] {
        init = interface::with_feature(init, feature, is_on);
    }
    init
}

const V3: KernelDevices = KernelDevices::gic_v3(1);

/// A kernel with a machine of two vCPUs and these devices, as a VMM makes it for a restore.
fn fresh(host: Host, devices: KernelDevices) -> Kernel {
    let controllers = match devices {
        KernelDevices::NONE => vec![],
        KernelDevices::GIC_V2 => vec![Kind::V2],
        _ => vec![Kind::V3, Kind::Its],
    };
    let controllers = controllers.into_iter().map(Controller::new).collect();
    Kernel::new(host, 2, controllers)
}

/// The same, with vCPUs that have run: every register holds something, the second vCPU is off and
/// an `SError` waits for the first.
fn running(host: Host, devices: KernelDevices, init: KvmInit) -> Kernel {
    let kernel = fresh(host, devices);
    let calls: &mut dyn Calls = &mut kernel.clone();
    for vcpu in 0..2 {
        interface::init(calls, vcpu, &init).unwrap();
        if interface::has_feature(&init, abi::VCPU_SVE) {
            interface::finalize_sve(calls, vcpu).unwrap();
        }
    }
    let mut state = kernel.state();
    for (seed, vcpu) in (1..).zip(&mut state.vcpus) {
        vcpu.fill(seed);
        if devices != KernelDevices::NONE {
            vcpu.attributes.insert((abi::PMU, abi::PMU_IRQ), 23);
        }
        let address = 0x4000_0000 + 64 * u64::from(seed);
        vcpu.attributes
            .insert((abi::PVTIME, abi::PVTIME_IPA), address);
    }
    state.vcpus[1].run_state = abi::MP_STOPPED;
    state.vcpus[0].events[0..2].fill(1);
    state.vcpus[0].events[8] = 0x2a;
    for device in &mut state.devices {
        device.is_made = true;
        device.fill(2);
    }
    drop(state);
    kernel
}

fn machine(kernel: &Kernel, devices: KernelDevices) -> KvmMachine<'static> {
    with_options(kernel, KvmOptions::new(devices))
}

fn with_options(kernel: &Kernel, options: KvmOptions) -> KvmMachine<'static> {
    let machine = KvmMachine::with_calls(Box::new(kernel.clone()), 2, options).unwrap();
    kernel.forget();
    machine
}

/// A machine to capture.
fn source(devices: KernelDevices, has_sve: bool) -> (Kernel, KvmMachine<'static>) {
    let init = features(has_sve);
    let kernel = running(Host::default(), devices, init);
    let machine = with_options(&kernel, KvmOptions::new(devices).with_init(init));
    (kernel, machine)
}

/// Its sections.
struct Saved {
    vcpus: Vec<VcpuArm64>,
    vm: VmArm64,
    gic_v3: Option<GicV3>,
    gic_v2: Option<GicV2>,
    fingerprint: Fingerprint,
}

impl Saved {
    fn of(devices: KernelDevices, has_sve: bool) -> Self {
        let (_, mut machine) = source(devices, has_sve);
        let paused = fake_paused();
        let mut sections = Vec::new();
        for vcpu in 0..2 {
            sections.push(machine.capture_vcpu(vcpu, &paused).unwrap());
        }
        sections.extend(machine.capture_vm(&paused).unwrap());
        let mut offers = SectionOffers::new(sections);
        let vcpus = offers.take_all().unwrap();
        Self {
            vcpus: vcpus.into_iter().map(|(_, vcpu)| vcpu).collect(),
            vm: offers.take(0).unwrap(),
            gic_v3: offers.take_optional(0).unwrap(),
            gic_v2: offers.take_optional(0).unwrap(),
            fingerprint: offers.take(0).unwrap(),
        }
    }

    fn offers(&self) -> SectionOffers {
        SectionOffers::new(self.sections())
    }

    fn sections(&self) -> Vec<SectionPayload> {
        let of = |(n, vcpu)| SectionPayload::of(n, vcpu);
        let mut sections: Vec<_> = (0..).zip(&self.vcpus).map(of).collect();
        sections.push(SectionPayload::of(0, &self.vm));
        sections.extend(self.gic_v3.iter().map(|gic| SectionPayload::of(0, gic)));
        sections.extend(self.gic_v2.iter().map(|gic| SectionPayload::of(0, gic)));
        sections
    }

    fn gic(&mut self) -> &mut GicV3 {
        self.gic_v3.as_mut().unwrap()
    }

    fn reasons(&self, kernel: &Kernel, devices: KernelDevices) -> Vec<Reason> {
        let mut machine = machine(kernel, devices);
        let taken = machine.take(&mut self.offers(), ClockPolicy::Frozen);
        taken.unwrap()
    }

    fn restore(&self, machine: &mut KvmMachine<'_>) -> Result<(), StepError> {
        let reasons = machine.take(&mut self.offers(), ClockPolicy::Frozen)?;
        assert_eq!(reasons, []);
        machine.prepare()?;
        for vcpu in 0..self.vcpus.len() {
            machine.restore_vcpu(vcpu)?;
        }
        machine.restore_vm()
    }
}

/// Sets a system register of a saved vCPU.
fn set_system(vcpu: &mut VcpuArm64, id: SystemRegisterId, value: u64) {
    vcpu.system.retain(|register| register.id != id);
    vcpu.system.push(SystemRegister { id, value });
    vcpu.system.sort_unstable();
}

/// Settles in a section what moves on its own: counters and the wall clock.
fn settle(section: &mut SectionPayload) {
    if section.kind == VcpuArm64::KIND {
        let mut vcpu: VcpuArm64 = section.value().unwrap();
        vcpu.timers.virtual_count = 0;
        vcpu.timers.physical_count = 0;
        *section = SectionPayload::of(section.instance, &vcpu);
    }
    if section.kind == VmArm64::KIND {
        let mut vm: VmArm64 = section.value().unwrap();
        vm.wall_clock_ns = 0;
        *section = SectionPayload::of(0, &vm);
    }
}
