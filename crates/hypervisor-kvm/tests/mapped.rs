//! A vCPU whose memory is mapped from a file that is cut while it runs.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]
#![expect(unsafe_code, reason = "the tests vouch for what they map")]

// UNSAFETY: a private mapping of a file, and memory slots of a machine that is made here.

use std::fs::File;
use std::io::Write;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use memmap2::{MmapOptions, MmapRaw};
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex, PageRange};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    BusGuard, BusWatch, FailureCause, MappedMemory, MappedRun, MappingOptions, MemoryEvents,
};

/// Pages of guest memory.
const PAGES: u64 = 16;

/// Where the program is, in a slot of its own.
const PROGRAM_AT: u64 = 0x80_0000;

const PROGRAM: [u8; 5] = [
    0x26, 0x8a, 0x07, // mov al, es:[bx]
    0xe6, 0x10, //       out 0x10, al
];

/// A machine with one vCPU. Dropped in this order.
struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: MmapRaw,
    _program: MappedMemory,
    file: File,
}

impl Machine {
    fn new(kvm: &Kvm) -> Self {
        let mut file = tempfile::tempfile().unwrap();
        for page in 1..=PAGES {
            let fill = u8::try_from(page).unwrap();
            file.write_all(&vec![fill; usize::try_from(PAGE_BYTES).unwrap()])
                .unwrap();
        }
        // SAFETY: no reference into the mapping is made: it becomes a raw one at once.
        let memory = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
        let memory = MmapRaw::from(memory);
        let layout = MemoryLayout::single(PAGE_BYTES).unwrap();
        let program = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        program.write(0, &PROGRAM).unwrap();
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        let slots = [
            (0, memory.as_ptr().addr(), PAGES),
            (PROGRAM_AT, program.base().as_ptr().addr(), 1),
        ];
        for (slot, (guest_address, host_address, pages)) in (0..).zip(slots) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: guest_address,
                memory_size: pages * PAGE_BYTES,
                userspace_addr: host_address as u64,
            };
            // SAFETY: both mappings are dropped after the machine.
            unsafe { vm.set_user_memory_region(region) }.unwrap();
        }
        Self {
            vcpu: vm.create_vcpu(0).unwrap(),
            _vm: vm,
            memory,
            _program: program,
            file,
        }
    }

    /// Lets the vCPU read a byte of `page`; `None`: there is none.
    fn read(&mut self, page: u64) -> Option<u8> {
        let mut sregs = self.vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (PROGRAM_AT, 0);
        sregs.es.base = page * PAGE_BYTES;
        self.vcpu.set_sregs(&sregs).unwrap();
        let regs = kvm_regs {
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(0x10, bytes)) => return Some(bytes[0]),
                // What the kernel emulates the instruction for, and cannot read, it takes for a
                // device's, though a slot has the address.
                Ok(VcpuExit::MmioRead(address, _)) if address == page * PAGE_BYTES => return None,
                Ok(exit) => unreachable!("the program only reads: {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) if error.errno() == libc::EFAULT => return None,
                Err(error) => unreachable!("KVM_RUN: {error}"),
            }
        }
    }

    fn watch(&self) -> (BusWatch, MemoryEvents) {
        let (events, reporter) = MemoryEvents::new().unwrap();
        let start = self.memory.as_ptr().addr() as u64;
        let run = MappedRun {
            addresses: start..start + PAGES * PAGE_BYTES,
            first: PageIndex(0),
            file: "memory.img".into(),
            offset: 0,
        };
        let guard = BusGuard::install().unwrap();
        // SAFETY: the tests drop the watch before the machine, and no reference points into it.
        let watch = unsafe { guard.watch(vec![run], &reporter) }.unwrap();
        (watch, events)
    }
}

// spec: HDL-18
#[test]
fn a_vcpu_whose_file_is_cut_stops_and_the_vmm_finds_out_why() {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return skip("kvm", &error.to_string()),
    };
    let mut machine = Machine::new(&kvm);
    let (watch, events) = machine.watch();
    assert_eq!(machine.read(9), Some(10));
    machine.file.set_len(5 * PAGE_BYTES).unwrap();
    assert_eq!(machine.read(4), Some(5));
    assert_eq!(machine.read(9), None);
    assert_eq!(watch.look().unwrap(), PAGES - 5);
    let failures = events.take();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].pages, PageRange::new(5, PAGES - 5));
    let FailureCause::Mapping { file, offset } = &failures[0].cause else {
        unreachable!("a mapping was cut: {:?}", failures[0]);
    };
    assert_eq!((file.as_str(), *offset), ("memory.img", 5 * PAGE_BYTES));
    // A device of the VMM that reads what is lost can be unwound.
    watch.abandon();
    let place = machine.memory.as_ptr().wrapping_add(9 * 4096);
    // SAFETY: the byte is in the mapping, and nobody holds a reference to it.
    assert_eq!(unsafe { place.read_volatile() }, 0);
    drop(watch);
}
