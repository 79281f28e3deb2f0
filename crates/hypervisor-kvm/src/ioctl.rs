//! The system calls themselves.

// UNSAFETY: every `ioctl` of this crate, and the views of kernel structures as bytes.
#![expect(
    unsafe_code,
    reason = "ioctl takes untyped pointers, and kernel structures are read as bytes"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use kvm_bindings as kvm;

use crate::calls::{Arg, Calls, DirtyCalls, MemorySlot, Target};
use crate::request::{self, Request};

/// The descriptors of one KVM machine.
#[derive(Clone, Debug)]
pub struct Handles<'fd> {
    kvm: BorrowedFd<'fd>,
    vm: BorrowedFd<'fd>,
    vcpus: Vec<BorrowedFd<'fd>>,
    #[cfg(any(target_arch = "aarch64", test))]
    devices: Vec<BorrowedFd<'fd>>,
}

impl<'fd> Handles<'fd> {
    /// Takes `/dev/kvm`, the machine and all its vCPUs in the order of their ids.
    ///
    /// # Safety
    ///
    /// The descriptors must be what they are passed as: a request to a descriptor of another kind
    /// may mean something else to it. While a capture or a restore runs on them, no vCPU may be
    /// inside `KVM_RUN`.
    #[must_use]
    pub unsafe fn new(
        kvm: BorrowedFd<'fd>,
        vm: BorrowedFd<'fd>,
        vcpus: Vec<BorrowedFd<'fd>>,
    ) -> Self {
        Self {
            kvm,
            vm,
            vcpus,
            #[cfg(any(target_arch = "aarch64", test))]
            devices: Vec::new(),
        }
    }

    /// As [`new`](Self::new), from whatever owns the descriptors: kvm-ioctls of any version.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[must_use]
    pub unsafe fn from_raw<K: AsRawFd, M: AsRawFd, V: AsRawFd>(
        kvm: &'fd K,
        vm: &'fd M,
        vcpus: &'fd [V],
    ) -> Self {
        // SAFETY: the owner is borrowed for 'fd and keeps its descriptor open.
        let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
        Self {
            kvm: borrow(kvm.as_raw_fd()),
            vm: borrow(vm.as_raw_fd()),
            vcpus: vcpus.iter().map(|vcpu| borrow(vcpu.as_raw_fd())).collect(),
            #[cfg(any(target_arch = "aarch64", test))]
            devices: Vec::new(),
        }
    }

    /// Takes the devices that `KVM_CREATE_DEVICE` made: the interrupt controller, then its
    /// translation services in the order of their addresses.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[cfg(any(target_arch = "aarch64", test))]
    #[must_use]
    pub unsafe fn with_devices(mut self, devices: Vec<BorrowedFd<'fd>>) -> Self {
        self.devices = devices;
        self
    }

    /// How many devices there are.
    #[cfg(any(target_arch = "aarch64", test))]
    pub(crate) fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// How many vCPUs there are.
    #[must_use]
    pub fn vcpu_count(&self) -> usize {
        self.vcpus.len()
    }

    fn descriptor(&self, target: Target) -> io::Result<BorrowedFd<'fd>> {
        match target {
            Target::System => Ok(self.kvm),
            Target::Vm => Ok(self.vm),
            Target::Vcpu(index) => self.vcpus.get(index).copied().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the machine has no such vCPU")
            }),
            #[cfg(any(target_arch = "aarch64", test))]
            Target::Device(index) => self.devices.get(index).copied().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the machine has no such device")
            }),
        }
    }

    /// The type of a machine that any host can make: the bits of a guest physical address, where
    /// their default of 40 is more than the host has.
    #[cfg(target_arch = "aarch64")]
    fn type_of_scratch(&mut self) -> io::Result<u64> {
        let bits = Arg::Value(kvm::KVM_CAP_ARM_VM_IPA_SIZE.into());
        let bits = self.call(Target::System, request::KVM_CHECK_EXTENSION, bits)?;
        Ok(if bits < 40 { bits } else { 0 })
    }

    /// Makes a request whose argument the caller has proved.
    ///
    /// # Safety
    ///
    /// `arg` is what the kernel takes for `request`: a value, or the address of a structure that
    /// is valid for all that the kernel reads and writes.
    unsafe fn ioctl(&self, target: Target, request: Request, arg: u64) -> io::Result<u64> {
        let fd = self.descriptor(target)?.as_raw_fd();
        // SAFETY:
        // - the descriptor is open for as long as `self` borrows it.
        // - `arg` is valid for `request`: the caller's promise.
        let result = unsafe { libc::ioctl(fd, request.number.into(), arg) };
        u64::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

/// Descriptors of a machine that are owned, for requests to it and to what vCPUs are there.
#[derive(Debug)]
pub(crate) struct OwnedVm {
    vm: OwnedFd,
    vcpus: Vec<OwnedFd>,
}

impl OwnedVm {
    pub(crate) fn new(vm: OwnedFd) -> Self {
        let vcpus = Vec::new();
        Self { vm, vcpus }
    }

    fn handles(&self) -> Handles<'_> {
        Handles {
            kvm: self.vm.as_fd(),
            vm: self.vm.as_fd(),
            vcpus: self.vcpus.iter().map(AsFd::as_fd).collect(),
            #[cfg(any(target_arch = "aarch64", test))]
            devices: Vec::new(),
        }
    }

    /// Makes a request that gives a descriptor.
    fn made_by(
        handles: &Handles<'_>,
        target: Target,
        request: Request,
        value: u64,
    ) -> io::Result<OwnedFd> {
        // SAFETY: the requests that give a descriptor take a value, a type of machine or the
        // number of a vCPU, and refuse one that is neither.
        let fd = unsafe { handles.ioctl(target, request, value) }?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn too_short(request: Request) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the argument of {} is too short", request.name),
    )
}

/// Whether `bytes` covers everything that the kernel reads or writes for `request`.
fn covers(handles: &Handles<'_>, request: Request, bytes: &[u8]) -> io::Result<bool> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes) as usize
    };
    let needed = if request.entry_bytes > 0 {
        let entries = word(0).saturating_mul(request.entry_bytes);
        request.arg_bytes.saturating_add(entries)
    } else {
        variable_len(handles, request, word(4))?.max(request.arg_bytes)
    };
    Ok(bytes.len() >= needed)
}

#[cfg(target_arch = "x86_64")]
fn variable_len(handles: &Handles<'_>, request: Request, second_word: usize) -> io::Result<usize> {
    match request {
        // The kernel copies what the machine was permitted, which may exceed the structure.
        request::KVM_GET_XSAVE2 | request::KVM_SET_XSAVE => {
            let extension = u64::from(kvm::KVM_CAP_XSAVE2);
            // SAFETY: the request takes a value.
            let len =
                unsafe { handles.ioctl(Target::Vm, request::KVM_CHECK_EXTENSION, extension) }?;
            usize::try_from(len).map_err(io::Error::other)
        }
        // The structure says its own length.
        request::KVM_GET_NESTED_STATE | request::KVM_SET_NESTED_STATE => Ok(second_word),
        _ => Ok(0),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn variable_len(_: &Handles<'_>, _: Request, _: usize) -> io::Result<usize> {
    Ok(0)
}

/// Lines of an I/O APIC, as hardware has them.
#[cfg(target_arch = "x86_64")]
const IOAPIC_LINES: u64 = 24;

impl Calls for Handles<'_> {
    fn call(&mut self, target: Target, request: Request, arg: Arg<'_>) -> io::Result<u64> {
        let arg = match arg {
            Arg::Value(value) if request.arg_bytes == 0 => value,
            Arg::Bytes(bytes) if request.arg_bytes > 0 && covers(self, request, bytes)? => {
                bytes.as_mut_ptr() as u64
            }
            _ => return Err(too_short(request)),
        };
        // SAFETY: `arg` is a value where the request takes one, and else points to a buffer that
        // is exclusively borrowed and covers what the kernel touches, both checked above.
        unsafe { self.ioctl(target, request, arg) }
    }

    fn attribute(
        &mut self,
        target: Target,
        request: Request,
        group: u32,
        attribute: u64,
        value: &mut u64,
    ) -> io::Result<()> {
        let attr = kvm::kvm_device_attr {
            flags: 0,
            group,
            attr: attribute,
            addr: std::ptr::from_mut(value) as u64,
        };
        // SAFETY: `attr` outlives the call, and the attributes that this crate names are at most 64
        // bits wide, which `value` holds.
        unsafe { self.ioctl(target, request, std::ptr::from_ref(&attr) as u64) }.map(drop)
    }

    fn register(
        &mut self,
        target: Target,
        request: Request,
        id: u64,
        value: &mut [u8],
    ) -> io::Result<()> {
        // KVM_REG_SIZE_MASK: the binary logarithm of the bytes.
        if value.len() < 1 << (id >> 52 & 0xf) {
            return Err(too_short(request));
        }
        let addr = value.as_mut_ptr() as u64;
        let register = kvm::kvm_one_reg { id, addr };
        let arg = std::ptr::from_ref(&register) as u64;
        // SAFETY: `register` outlives the call; the value is exclusively borrowed and as long as
        // the kernel reads or writes, checked above.
        unsafe { self.ioctl(target, request, arg) }.map(drop)
    }

    fn scratch(&mut self, local_apic: bool) -> io::Result<Box<dyn Calls>> {
        #[cfg(target_arch = "aarch64")]
        let kind = self.type_of_scratch()?;
        #[cfg(not(target_arch = "aarch64"))]
        let kind = 0;
        let vm = OwnedVm::made_by(self, Target::System, request::KVM_CREATE_VM, kind)?;
        let mut scratch = OwnedVm::new(vm);
        // Only x86-64 has them before the vCPUs. Without the other controllers: to take those down
        // costs 15 times what all the rest does.
        #[cfg(target_arch = "x86_64")]
        if local_apic {
            let mut enable = kvm::kvm_enable_cap {
                cap: kvm::KVM_CAP_SPLIT_IRQCHIP,
                args: [IOAPIC_LINES, 0, 0, 0],
                ..Default::default()
            };
            let split = Arg::Bytes(bytes_of_mut(&mut enable));
            scratch.call(Target::Vm, request::KVM_ENABLE_CAP, split)?;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = local_apic;
        let vcpu = OwnedVm::made_by(&scratch.handles(), Target::Vm, request::KVM_CREATE_VCPU, 0)?;
        scratch.vcpus.push(vcpu);
        Ok(Box::new(scratch))
    }

    #[cfg(target_arch = "aarch64")]
    fn counter_frequency(&mut self) -> io::Result<u64> {
        let frequency: u64;
        // SAFETY: reads a register that Linux lets every process read, and touches nothing else.
        unsafe {
            std::arch::asm!(
                "mrs {}, cntfrq_el0",
                out(reg) frequency,
                options(nomem, nostack, preserves_flags)
            );
        }
        Ok(frequency)
    }
}

impl Calls for OwnedVm {
    fn call(&mut self, target: Target, request: Request, arg: Arg<'_>) -> io::Result<u64> {
        self.handles().call(target, request, arg)
    }

    fn attribute(
        &mut self,
        target: Target,
        request: Request,
        group: u32,
        attribute: u64,
        value: &mut u64,
    ) -> io::Result<()> {
        self.handles()
            .attribute(target, request, group, attribute, value)
    }

    fn register(
        &mut self,
        target: Target,
        request: Request,
        id: u64,
        value: &mut [u8],
    ) -> io::Result<()> {
        self.handles().register(target, request, id, value)
    }
}

impl DirtyCalls for OwnedVm {
    fn dirty_log(&mut self, slot: u32, bitmap: &mut [u64]) -> io::Result<()> {
        let log = kvm::kvm_dirty_log {
            slot,
            padding1: 0,
            __bindgen_anon_1: kvm::kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: bitmap.as_mut_ptr().cast(),
            },
        };
        let arg = std::ptr::from_ref(&log) as u64;
        // SAFETY: `log` outlives the call; the bitmap is exclusively borrowed and, by the promise
        // of whoever named the slot, has a bit for each of its pages, rounded up to 64.
        unsafe {
            self.handles()
                .ioctl(Target::Vm, request::KVM_GET_DIRTY_LOG, arg)
        }
        .map(drop)
    }

    fn clear_dirty_log(
        &mut self,
        slot: u32,
        first_page: u64,
        page_count: u32,
        bitmap: &mut [u64],
    ) -> io::Result<()> {
        if (bitmap.len() as u64).saturating_mul(64) < u64::from(page_count) {
            return Err(too_short(request::KVM_CLEAR_DIRTY_LOG));
        }
        let clear = kvm::kvm_clear_dirty_log {
            slot,
            num_pages: page_count,
            first_page,
            __bindgen_anon_1: kvm::kvm_clear_dirty_log__bindgen_ty_1 {
                dirty_bitmap: bitmap.as_mut_ptr().cast(),
            },
        };
        let arg = std::ptr::from_ref(&clear) as u64;
        // SAFETY: `clear` outlives the call; the bitmap has a bit for each page named, checked
        // above.
        unsafe {
            self.handles()
                .ioctl(Target::Vm, request::KVM_CLEAR_DIRTY_LOG, arg)
        }
        .map(drop)
    }

    fn set_slot_flags(&mut self, slot: MemorySlot, flags: u32) -> io::Result<()> {
        let region = kvm::kvm_userspace_memory_region {
            slot: slot.slot,
            flags,
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len_bytes,
            userspace_addr: slot.host_address,
        };
        let arg = std::ptr::from_ref(&region) as u64;
        // SAFETY: `region` outlives the call; by the promise of whoever named it, it is a slot
        // that exists with the same addresses, so that only its flags change.
        unsafe {
            self.handles()
                .ioctl(Target::Vm, request::KVM_SET_USER_MEMORY_REGION, arg)
        }
        .map(drop)
    }
}

/// A kernel structure without implicit padding, for which every bit pattern is a value.
///
/// # Safety
///
/// Both must hold.
pub(crate) unsafe trait KernelStruct: Copy + Default {}

/// The bytes of a kernel structure.
pub(crate) fn bytes_of<T: KernelStruct>(value: &T) -> &[u8] {
    let address = std::ptr::from_ref(value).cast();
    // SAFETY: the value is borrowed, and has no padding: every byte is initialised.
    unsafe { std::slice::from_raw_parts(address, size_of::<T>()) }
}

/// The bytes of a kernel structure, to be written by the kernel.
pub(crate) fn bytes_of_mut<T: KernelStruct>(value: &mut T) -> &mut [u8] {
    let address = std::ptr::from_mut(value).cast();
    // SAFETY: the value is exclusively borrowed, has no padding, and any bytes written to it are
    // a value.
    unsafe { std::slice::from_raw_parts_mut(address, size_of::<T>()) }
}

macro_rules! kernel_structs {
    ($($name:ty),* $(,)?) => {$(
        // SAFETY: the structure consists of integers, and its explicit padding fields leave no
        // gap: bindgen asserts size and offsets, which are the kernel's ABI.
        unsafe impl KernelStruct for $name {}
    )*};
}

kernel_structs!(u16, u32, u64, kvm::kvm_enable_cap);

#[cfg(target_arch = "x86_64")]
kernel_structs!(
    // An entry of `struct kvm_irq_routing`, which ends in a union.
    [u32; 12],
    kvm::kvm_regs,
    kvm::kvm_sregs,
    kvm::kvm_sregs2,
    kvm::kvm_debugregs,
    kvm::kvm_xcrs,
    kvm::kvm_mp_state,
    kvm::kvm_vcpu_events,
    kvm::kvm_clock_data,
    kvm::kvm_pit_state2,
    kvm::kvm_pic_state,
    kvm::kvm_cpuid_entry2,
    kvm::kvm_msr_entry,
);

#[cfg(test)]
mod tests;
