//! Four vCPUs that are stopped by a signal: one in the midst of a question, one halted, one that
//! was never started, and one that waits for its start-up interrupt.

use hypervisor_bridge::ClockPolicy;
use hypervisor_kvm::{KernelDevices, KvmOptions, TscOutcome};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, kvm_regs,
};

use super::machine::{Machine, SVR, contents, machine, set_apic};
use super::threads::{ASK, DONE, Port, run};

/// Questions that the first vCPU asks before it wakes the others.
const QUESTIONS: u16 = 1000;

/// Where the programs are, and where each vCPU leaves its mark.
const FIRST: u64 = 0x1000;
const HALTED: u64 = 0x2000;
const HANDLER: u64 = 0x3000;
const STARTED: [u64; 2] = [0x4000, 0x5000];
const MARKS: u64 = 0x511;

/// Registers of the local APIC, at ES.
const ICR_LOW: u8 = 0x00;
const ICR_HIGH: u8 = 0x10;

/// `mov dword es:[0x300 + register], value`
fn icr(register: u8, value: u32) -> Vec<u8> {
    let mut code = vec![0x26, 0x66, 0xc7, 0x06, register, 0x03];
    code.extend(value.to_le_bytes());
    code
}

/// The first vCPU: puts the fourth into waiting, waits for the second, asks, wakes the others, and
/// waits for their marks.
fn first_program() -> Vec<u8> {
    let to = |apic: u32, commands: &[u32]| {
        let mut code = icr(ICR_HIGH, apic << 24);
        code.extend(commands.iter().flat_map(|command| icr(ICR_LOW, *command)));
        code
    };
    let (init, start, fixed) = (0x4500, 0x4600, 0x4000);
    let [low, high] = QUESTIONS.to_le_bytes();
    // cmp byte [mark], 1; jne -7
    let wait_for = |mark| [0x80, 0x3e, mark, 0x05, 0x01, 0x75, 0xf9];
    let mut code = to(3, &[init]);
    code.extend(wait_for(0x15));
    code.extend([
        0xe4, ASK, //                          in al, ASK
        0x00, 0x06, 0x00, 0x05, //             add [0x500], al
        0xff, 0x06, 0x02, 0x05, //             inc word [0x502]
        0x81, 0x3e, 0x02, 0x05, low, high, //  cmp word [0x502], QUESTIONS
        0x72, 0xee, //                         jb -18
    ]);
    code.extend(to(1, &[fixed | 0x40]));
    code.extend(to(2, &[init, start | 4]));
    code.extend(to(3, &[start | 5]));
    code.extend([0x11, 0x12, 0x13].into_iter().flat_map(wait_for));
    // out DONE, al; hlt; jmp -3
    code.extend([0xe6, DONE, 0xf4, 0xeb, 0xfd]);
    code
}

/// Leaves a mark and halts for good.
fn mark(place: u8) -> [u8; 9] {
    // mov byte [place], 1; cli; hlt; jmp -3
    [0xc6, 0x06, place, 0x05, 0x01, 0xfa, 0xf4, 0xeb, 0xfd]
}

/// A machine at the start of its programs.
fn booted() -> Option<Machine> {
    let machine = machine(4)?;
    let memory = &machine.memory;
    memory.write(FIRST, &first_program()).unwrap();
    // mov byte [0x515], 1; sti; hlt
    let mut halted = vec![0xc6, 0x06, 0x15, 0x05, 0x01, 0xfb, 0xf4];
    halted.extend(mark(0x11));
    memory.write(HALTED, &halted).unwrap();
    // inc byte [0x514]; mov dword es:[0xb0], 0 (end of interrupt); iret
    let handler = [
        0xfe, 0x06, 0x14, 0x05, 0x26, 0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0, 0xcf,
    ];
    memory.write(HANDLER, &handler).unwrap();
    memory.write(4 * 0x40, &[0x00, 0x30, 0, 0]).unwrap();
    // It must be enabled to take an interrupt. And until the APIC of any vCPU is changed, an INIT
    // to the one that was made last finds nobody.
    set_apic(&machine, 1, &[(SVR, 0x1ff)]);
    for (place, address) in (0x12..).zip(STARTED) {
        memory.write(address, &mark(place)).unwrap();
    }
    for (vcpu, rip) in machine.vcpus.iter().zip([FIRST, HALTED]) {
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.es.base = 0xfee0_0000;
        vcpu.set_sregs(&sregs).unwrap();
        let regs = kvm_regs {
            rip,
            rsp: 0x8000,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
    }
    // The second is a processor that runs, though no other started it.
    let runnable = kvm_bindings::kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    machine.vcpus[1].set_mp_state(runnable).unwrap();
    Some(machine)
}

fn options() -> KvmOptions {
    KvmOptions::new(KernelDevices::ALL)
}

// spec: KVX-01
// spec: KVX-03
#[test]
fn vcpus_that_run_are_halted_and_wait_to_be_started_come_back_as_they_were() {
    let Some(mut whole) = booted() else {
        return;
    };
    let port = Port::default();
    run(&mut whole, &port, |_| port.wait_until_done());
    let expected = contents(&whole.memory);
    let marks = usize::try_from(MARKS).unwrap();
    assert_eq!(
        expected[marks..marks + 4],
        [1; 4],
        "marks and one interrupt"
    );

    for questions in [1, 60, 300] {
        let mut source = booted().unwrap();
        let port = Port::default();
        let (saved, asked) = run(&mut source, &port, |running| {
            port.wait_until_asked(questions);
            // On a busy host the second may not have come from its mark to its HLT yet.
            let mut stopped = running.save(&options());
            while stopped.0.vcpu(1).mp_state != KVM_MP_STATE_HALTED && stopped.1 < QUESTIONS.into()
            {
                std::thread::sleep(std::time::Duration::from_millis(2));
                stopped = running.save(&options());
            }
            port.wait_until_done();
            stopped
        });
        assert_eq!(contents(&source.memory), expected, "the original ran on");
        let states: Vec<_> = (0..4).map(|vcpu| saved.vcpu(vcpu).mp_state).collect();
        let waiting = [
            KVM_MP_STATE_RUNNABLE,
            KVM_MP_STATE_HALTED,
            KVM_MP_STATE_UNINITIALIZED,
            KVM_MP_STATE_INIT_RECEIVED,
        ];
        assert_eq!(states, waiting);
        assert!(asked < QUESTIONS.into(), "stopped too late to tell");
        // A question that was answered is in memory, or on its way there in a register.
        let counted = u16::from_le_bytes([saved.memory[0x502], saved.memory[0x503]]);
        assert!(asked - u64::from(counted) <= 1, "{asked} of {counted}");

        let mut target = machine(4).unwrap();
        let frozen = ClockPolicy::Frozen;
        let report = target.restore(&saved, &options(), frozen).unwrap();
        assert_eq!(report.dropped_msrs, []);
        assert_ne!(report.tsc, None);
        let port = Port::at(asked);
        run(&mut target, &port, |_| port.wait_until_done());
        assert_eq!(
            contents(&target.memory),
            expected,
            "after {asked} questions"
        );
    }
}

// spec: KVX-15
#[test]
fn counters_of_all_vcpus_agree_and_never_go_back() {
    let (Some(source), Some(target)) = (machine(4), machine(4)) else {
        return;
    };
    let saved = source.save(&options());
    let tsc = |vcpu: usize| {
        let saved = saved.vcpu(vcpu);
        let found = saved.msrs.iter().find(|msr| msr.index == 0x10);
        (found.unwrap().value, saved.tsc_khz)
    };
    std::thread::sleep(std::time::Duration::from_millis(100));
    let frozen = ClockPolicy::Frozen;
    let report = target.restore(&saved, &options(), frozen).unwrap();
    let found: Vec<u64> = (target.vcpus.iter())
        .map(|vcpu| super::machine::msr(vcpu, 0x10).unwrap())
        .collect();
    let per_ms = u64::from(tsc(0).1);
    for (vcpu, found) in found.iter().enumerate() {
        let passed = found.wrapping_sub(tsc(vcpu).0);
        assert!(passed < 1_000 * per_ms, "vCPU {vcpu} went {passed} on");
    }
    // They are read one after the other, and agree.
    for pair in found.windows(2) {
        assert!(pair[1].wrapping_sub(pair[0]) < 100 * per_ms, "{found:?}");
    }
    let passed = found[0].wrapping_sub(tsc(0).0);
    match report.tsc {
        // The counter went on from where it was, not from where the host's is by now.
        Some(TscOutcome::ByOffset | TscOutcome::ByValue) => {
            assert!(passed < 90 * per_ms, "{passed} ticks");
        }
        // The jump is what the caller is told.
        Some(TscOutcome::HostCounter { jump_ticks }) => {
            let told = u64::try_from(jump_ticks).unwrap();
            assert!(told >= 100 * per_ms && told <= passed, "{told} of {passed}");
        }
        other => panic!("{other:?}"),
    }
}
