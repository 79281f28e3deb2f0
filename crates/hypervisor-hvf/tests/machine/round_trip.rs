//! Everything that was there is there again.

use std::sync::Arc;

use hypervisor_bridge::testing::{
    FakeDevices, MemorySink, Script, capture_state_suite, fake_paused, state_round_trip_suite,
};
use hypervisor_bridge::{
    Cancel, ClockPolicy, DeviceRestore, Devices, MOVING_ARM64, Machine, Paused, ReloadTarget,
    Restore, RestoreTarget, Selection, SnapshotRequest, StateRestore, StepError, reload, snapshot,
};
use hypervisor_hvf::fake::GuestStep;
use hypervisor_hvf::{
    Flag, GicWay, Hv, Lines, Protection, Register, SmeMode, SmeRegister, WriteProtect,
    WriteProtectOptions,
};
use snapshot_format::state::{
    DeviceState, Fingerprint, PowerState, SystemRegisterId as Id, VcpuArm64, VmArm64,
};
use snapshot_format::{MemoryLayout, PAGE_BYTES, SectionOffers, SectionPayload, StatePayload};
use snapshot_memory::{DirtyTracker, MappedMemory, MappingOptions};

use super::rig::{DEVICE, DEVICE_SAYS, Shape, Vmm, host, mpidr, noon};

/// A value for everything that a vCPU has, different everywhere.
pub(super) fn fill(vmm: &Vmm, vcpu: usize) {
    let shape = vmm.handles.len();
    vmm.on(vcpu, move |hv, handle| {
        let mut next = 0x1000 * (u64::try_from(vcpu * shape).unwrap() + 1);
        let mut value = || {
            next += 1;
            next
        };
        for number in 0..35 {
            let register = Register::General(number);
            hv.set_register(handle, register, value()).unwrap();
        }
        let mode = SmeMode {
            streaming: vcpu == 1,
            matrix: vcpu != 0,
        };
        hv.set_sme_mode(handle, mode).unwrap();
        for number in 0..32 {
            hv.set_vector(handle, number, u128::from(value()) << 50)
                .unwrap();
        }
        let sme = (0..32)
            .map(SmeRegister::Z)
            .chain((0..16).map(SmeRegister::P))
            .chain([SmeRegister::Za, SmeRegister::Zt0]);
        for register in sme {
            let bytes = vec![value().to_le_bytes()[0]; register.len_bytes(64)];
            // What is not in use has no value.
            let _unused = hv.set_sme_register(handle, register, &bytes);
        }
        // Every register that there is; what is read-only refuses.
        for id in (0x8000..0x8080).chain(0xc080..=0xffff) {
            let id: u16 = id;
            for register in [Register::System(id), Register::Icc(id), Register::Ich(id)] {
                let _absent = hv.set_register(handle, register, value());
            }
        }
        for offset in (0x1_0000..0x1_0c08).step_by(4) {
            let register = Register::Redistributor(offset);
            let _absent = hv.set_register(handle, register, value() & 0xffff);
        }
        for flag in [
            Flag::VtimerMask,
            Flag::TrapDebugExceptions,
            Flag::TrapDebugAccesses,
        ] {
            hv.set_flag(handle, flag, vcpu == 2).unwrap();
        }
        // Counters of vCPUs have one offset.
        hv.set_register(handle, Register::VtimerOffset, 12345)
            .unwrap();
    });
}

/// Interrupts in every state.
pub(super) fn fill_gic(vmm: &Vmm) {
    for offset in (0..0x8000).step_by(4) {
        // What sets bits, and not what clears them.
        if !matches!(offset, 0x180..=0x1ff | 0x280..=0x2ff | 0x380..=0x3ff) {
            let _absent = vmm.hv.set_distributor(offset, u64::from(offset) << 3 | 5);
        }
    }
    vmm.hv.set_line(77, true).unwrap();
}

/// Takes out what belongs to the host: its own counter and its wall clock.
pub(super) fn settle(section: &mut SectionPayload) {
    if section.kind == VcpuArm64::KIND {
        let mut vcpu: VcpuArm64 = section.value().unwrap();
        let timers = &mut vcpu.timers;
        let compare = &mut timers.physical_timer.compare;
        *compare = compare.wrapping_sub(timers.physical_count);
        timers.physical_count = 0;
        *section = SectionPayload::of(section.instance, &vcpu);
    } else if section.kind == VmArm64::KIND {
        let mut vm: VmArm64 = section.value().unwrap();
        vm.wall_clock_ns = 0;
        *section = SectionPayload::of(section.instance, &vm);
    }
}

// spec: HVF-01
// spec: HVF-05
#[test]
fn everything_of_three_vcpus_with_gic_el2_and_matrices_comes_back() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(3));
    for vcpu in 0..3 {
        fill(&source, vcpu);
    }
    fill_gic(&source);
    source.crew.set_power(
        1,
        PowerState::OnPending {
            entry: 8,
            context: 9,
        },
    );
    source.crew.set_power(2, PowerState::WaitingForInterrupt);
    let later = {
        let mut time = noon();
        time.absolute = 77;
        time.wall_ns += 1;
        time
    };
    let mut target = Vmm::new(&host(later), &Shape::full(3));
    let paused = fake_paused();
    capture_state_suite(&mut source.machine, &paused).unwrap();
    state_round_trip_suite(
        &mut source.machine,
        &mut target.machine,
        &paused,
        &mut settle,
    )
    .unwrap();
    assert_eq!(target.machine.report().gic, GicWay::Opaque);
    assert!(target.hv.line(77));
    let saved = source.machine.save_vcpu(1, &paused).unwrap();
    assert_eq!(saved.mpidr, mpidr(1));
    let sme = saved.sme.unwrap();
    assert!(sme.streaming && sme.z.len() == 32 * 64 && sme.za.len() == 64 * 64);
    // The bank of EL2, the virtual interface to the GIC included, is there because EL2 is.
    let has = |id: u16| saved.system.iter().any(|register| register.id.0 == id);
    assert!(has(0xe600) && has(0xe65f) && has(0xe66f));
}

// spec: RES-19
#[test]
fn a_reload_finds_nothing_but_what_moves_on_its_own() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(2));
    fill(&source, 0);
    fill(&source, 1);
    fill_gic(&source);
    let saved = sections(&mut source);
    let mut time = noon();
    time.absolute += 5_000;
    time.wall_ns += 1;
    let target = || Vmm::new(&host(time), &Shape::full(2));
    let reload_into = |vmm: &mut Vmm, moving| {
        let paused = fake_paused();
        let parts = ReloadTarget {
            memory: &mut FakeDevices::default(),
            state: &mut vmm.machine,
            devices: &mut NoSavedDevices,
            paused: &paused,
        };
        let resume = Restore::resume(ClockPolicy::Frozen);
        reload(resume, parts, saved.clone(), moving).unwrap()
    };
    let report = reload_into(&mut target(), MOVING_ARM64);
    assert!(report.is_exact(), "{:#?}", report.differences);
    // Without the list, what moves is a difference.
    assert!(!reload_into(&mut target(), &[]).is_exact());
}

/// A VMM whose devices have no state.
struct NoSavedDevices;

impl Devices for NoSavedDevices {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        Ok(Vec::new())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}

impl DeviceRestore for NoSavedDevices {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        assert_eq!(devices, []);
        Ok(())
    }
}

// spec: HVF-05
#[test]
fn a_bare_machine_has_no_section_for_what_it_lacks() {
    let mut source = Vmm::new(&host(noon()), &Shape::bare(2));
    fill(&source, 0);
    fill(&source, 1);
    let mut target = Vmm::new(&host(noon()), &Shape::bare(2));
    let paused = fake_paused();
    let mut keep = |_: &mut SectionPayload| ();
    state_round_trip_suite(&mut source.machine, &mut target.machine, &paused, &mut keep).unwrap();
    let saved = source.machine.save_vcpu(0, &paused).unwrap();
    assert!(saved.icc.is_empty());
    assert!(saved.system.iter().all(|register| !register.id.is_el2()));
    let sections = source.machine.save_vm(&paused).unwrap();
    assert_eq!(sections.len(), 2);
    assert_eq!(target.machine.report().gic, GicWay::None);
}

// spec: HVF-11
#[test]
fn a_line_that_was_asserted_is_asserted_at_every_entry_of_the_restored_vcpu() {
    let mut source = Vmm::new(&host(noon()), &Shape::bare(1));
    // The framework drops a line at the end of a run: the crew keeps it.
    let fiq = Lines {
        irq: false,
        fiq: true,
    };
    source.crew.set_lines(0, fiq).unwrap();
    source.load(0, vec![GuestStep::Call, GuestStep::Call, GuestStep::Spin]);
    source.run_until_exits(2);
    let paused = fake_paused();
    let saved = source.machine.save_vcpu(0, &paused).unwrap();
    assert!(saved.pending.fiq && !saved.pending.irq);

    let mut target = Vmm::new(&host(noon()), &Shape::bare(1));
    restore(&mut source, &mut target);
    assert_eq!(target.crew.lines(0), fiq);
    assert_eq!(target.on(0, |hv, h| hv.flag(h, Flag::PendingFiq)), Ok(true));
    target.load(0, vec![GuestStep::Spin, GuestStep::Spin, GuestStep::Call]);
    target.hv.forget_calls();
    target.run_until_exits(1);
    let calls = target.calls_of(0);
    assert!(
        calls.contains(&"set PendingFiq true".to_owned()),
        "{calls:?}"
    );
}

/// Saves a machine and brings it back into another.
pub(super) fn restore(source: &mut Vmm, target: &mut Vmm) {
    let mut offers = sections(source);
    let state = &mut target.machine;
    let _: Fingerprint = offers.take(0).unwrap();
    let reasons = state.take(&mut offers, ClockPolicy::Frozen).unwrap();
    assert_eq!(reasons, []);
    state.prepare().unwrap();
    for vcpu in 0..StateRestore::vcpu_count(state) {
        state.restore_vcpu(vcpu).unwrap();
    }
    state.restore_vm().unwrap();
}

/// Everything of a machine that stands still.
pub(super) fn sections(source: &mut Vmm) -> SectionOffers {
    let paused = fake_paused();
    let mut sections = Vec::new();
    for vcpu in 0..source.handles.len() {
        let saved = source.machine.save_vcpu(vcpu, &paused).unwrap();
        sections.push(SectionPayload::of(saved.id, &saved));
    }
    sections.extend(source.machine.save_vm(&paused).unwrap());
    SectionOffers::new(sections)
}

// spec: HVF-10
#[test]
fn secondary_vcpus_are_what_they_were_and_those_that_were_told_to_start_do() {
    let states = [
        PowerState::On,
        PowerState::Off,
        PowerState::OnPending {
            entry: 8,
            context: 0xc0,
        },
        PowerState::WaitingForInterrupt,
        PowerState::Suspended,
        PowerState::On,
    ];
    let mut source = Vmm::new(&host(noon()), &Shape::full(states.len()));
    for (vcpu, power) in states.into_iter().enumerate() {
        source.crew.set_power(vcpu, power);
        source.set_register(vcpu, Register::PC, 4);
    }
    let mut target = Vmm::new(&host(noon()), &Shape::full(states.len()));
    restore(&mut source, &mut target);
    for (vcpu, power) in states.into_iter().enumerate() {
        assert_eq!(target.crew.power(vcpu), Some(power));
    }
    for vcpu in 0..states.len() {
        let steps = [GuestStep::Spin, GuestStep::Call, GuestStep::Call];
        target.load(vcpu, steps.to_vec());
    }
    // Two run on, and one starts at its entry: behind the first call, so it calls once.
    target.run_until_exits(5);
    let count = |vcpu| target.exits().iter().filter(|exit| exit.0 == vcpu).count();
    let counts: Vec<_> = (0..states.len()).map(count).collect();
    assert_eq!(counts, [2, 0, 1, 0, 0, 2]);
    assert_eq!(target.register(2, Register::General(0)), 0xc0);
    assert_eq!(target.register(2, Register::CPSR), 0x3c5);
    let sctlr = target.register(2, Register::System(Id::SCTLR_EL1.0));
    assert_eq!(sctlr & 0x1005, 0);
    assert_eq!(target.crew.power(2), Some(PowerState::On));
}

/// A machine with memory, whose writes are recorded.
fn with_memory(layout: &MemoryLayout) -> (Vmm, DirtyTracker) {
    let hv = host(noon());
    let (source, faults) = WriteProtect::new(
        Arc::new(hv.clone()),
        layout.clone(),
        WriteProtectOptions::default(),
    )
    .unwrap();
    let vmm = Vmm::with_faults(&hv, &Shape::full(2), Some(&faults));
    for region in layout.regions() {
        let (start, len) = (region.start.0, region.len_bytes);
        hv.map(start, len, Protection::ALL).unwrap();
    }
    let tracker = DirtyTracker::new(layout.clone(), vec![Box::new(source)]).unwrap();
    (vmm, tracker)
}

// spec: HVF-03
// spec: HVF-04
#[test]
fn a_machine_that_runs_goes_through_a_snapshot_and_a_diff_to_another_one() {
    let layout = MemoryLayout::single(4 << 20).unwrap();
    let (mut vmm, tracker) = with_memory(&layout);
    let consumer = tracker.subscribe(None);
    let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
    let mut sink = MemorySink::default();
    let mut take = |vmm: &mut Vmm, selection| {
        let captured = snapshot(
            Machine {
                vcpus: &mut vmm.vcpus(),
                devices: &mut FakeDevices(Script::default()),
                state: &mut vmm.machine,
                memory: &memory,
            },
            SnapshotRequest {
                sink: &mut sink,
                selection,
                cancel: &Cancel::default(),
                room_bytes: None,
            },
        )
        .unwrap();
        captured.memory.present
    };
    let tracked = |tracker| Selection::FullTracked { tracker, consumer };
    assert_eq!(take(&mut vmm, tracked(&tracker)), 1024);

    // A store, a load from a device, and a walk that marks a page table.
    vmm.vcpus_stop();
    vmm.load(
        0,
        vec![
            GuestStep::Store { address: 0x5008 },
            GuestStep::Load {
                address: DEVICE,
                register: 3,
                size: 1,
                signed: true,
                wide: true,
            },
            GuestStep::Walk { address: 0x20_0000 },
            GuestStep::Call,
        ],
    );
    vmm.run_until_exits(2);
    vmm.crew.meeting().release();
    let diff = Selection::Diff {
        tracker: &tracker,
        consumer,
    };
    // Both blocks of 2 MiB.
    assert_eq!(take(&mut vmm, diff), 1024);
    assert_eq!(vmm.hv.stores(), [0x5008, 0x20_0000]);
    assert_eq!(tracker.layout().len_bytes() / PAGE_BYTES, 1024);

    let kept = sink.kept();
    let mut target = Vmm::new(&host(noon()), &Shape::full(2));
    let devices = Script::default();
    let outcome = Restore::resume(ClockPolicy::Frozen)
        .run(
            RestoreTarget {
                memory: &mut FakeDevices(devices.clone()),
                state: &mut target.machine,
                devices: &mut FakeDevices(devices.clone()),
            },
            kept[1].offers(),
        )
        .unwrap();
    drop(outcome);
    assert_eq!(devices.reached(), ["restore memory", "restore devices 1"]);
    let half = DEVICE_SAYS & 0xffff;
    let loaded = target.register(0, Register::General(3));
    assert_eq!(loaded, half | !0xffff, "extended by its sign");
    // Behind the load, the walk and the call: none of them happens again.
    assert_eq!(target.register(0, Register::PC), 16);
}
