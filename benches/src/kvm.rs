//! The smallest KVM machine that can be restored into: one vCPU in real mode.

// UNSAFETY: the kernel is told of memory that it may write.
#![expect(unsafe_code, reason = "registers guest memory with KVM")]

use std::io;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::error::BenchError;
use crate::machine_code;

/// An address range of three pages that Intel CPUs need outside guest memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Guest memory ends here and goes on at 4 GiB: interrupt controllers lie in between.
const HOLE: u64 = 3 << 30;
const HIGH: u64 = 4 << 30;

/// A machine with interrupt controllers and a timer, as a virtual machine has them.
#[derive(Debug)]
pub(crate) struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
}

/// Guest memory as KVM is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostMemory {
    /// The first byte.
    pub(crate) address: u64,
    pub(crate) len_bytes: u64,
}

/// Whether machines can be made here; the reason if not.
pub(crate) fn available() -> Result<(), String> {
    Kvm::new().map(drop).map_err(|error| error.to_string())
}

impl Machine {
    /// Makes a machine whose memory is `memory`. The slots come before the interrupt controllers:
    /// afterwards each waits for all readers of the old ones, for milliseconds.
    ///
    /// # Safety
    ///
    /// `memory` is mapped, and stays so until the machine has gone.
    pub(crate) unsafe fn new(memory: HostMemory) -> Result<Self, BenchError> {
        let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
        let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        let low = memory.len_bytes.min(HOLE);
        let parts = [
            (0, 0, low, memory.address),
            (1, HIGH, memory.len_bytes - low, memory.address + low),
        ];
        for (slot, guest_phys_addr, memory_size, userspace_addr) in parts {
            if memory_size == 0 {
                continue;
            }
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr,
                memory_size,
                userspace_addr,
            };
            // SAFETY: the caller promises that the mapping is there and stays.
            let set = unsafe { vm.set_user_memory_region(region) };
            set.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2"))?;
        let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        let mut machine = Self { vcpu, _vm: vm };
        machine.boot()?;
        Ok(machine)
    }

    /// Puts the vCPU before the first instruction of the program.
    fn boot(&mut self) -> Result<(), BenchError> {
        let mut sregs = self.vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        self.vcpu
            .set_sregs(&sregs)
            .map_err(failed("KVM_SET_SREGS"))?;
        let regs = kvm_bindings::kvm_regs {
            rip: machine_code::START,
            rax: machine_code::FIRST.into(),
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))
    }

    /// Runs until the guest writes `expected` to its port.
    pub(crate) fn run_to(&mut self, expected: u8) -> Result<(), BenchError> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(machine_code::PORT, &[found])) if found == expected => {
                    return Ok(());
                }
                Ok(exit) => {
                    return Err(BenchError::Guest {
                        exit: format!("{exit:?}"),
                    });
                }
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(failed("KVM_RUN")(error)),
            }
        }
    }
}

fn failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> BenchError {
    move |error| BenchError::Kvm {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
