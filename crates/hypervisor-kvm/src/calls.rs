//! The seam between what this crate wants of KVM and the system calls that do it.

use std::io;

use crate::error::KvmError;
use crate::ioctl::{KernelStruct, bytes_of_mut};
use crate::request::{KVM_CHECK_EXTENSION, Request};

/// Which descriptor a request goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// `/dev/kvm`.
    System,
    /// The machine.
    Vm,
    /// A vCPU, by its place in the list of vCPUs.
    Vcpu(usize),
    /// A device that the kernel models, by its place in the list of devices.
    #[cfg(any(target_arch = "aarch64", test))]
    Device(usize),
}

/// The argument of a request.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    /// A plain value.
    Value(u64),
    /// A structure of the kernel's.
    Bytes(&'a mut [u8]),
}

/// One memory slot, as the VMM registered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySlot {
    /// The slot's number.
    pub slot: u32,
    /// `KVM_MEM_*` flags, without `KVM_MEM_LOG_DIRTY_PAGES`.
    pub flags: u32,
    /// Guest physical address of the first byte.
    pub guest_address: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Host address of the first byte.
    pub host_address: u64,
}

/// Makes requests. The kernel does it in production; tests record.
pub(crate) trait Calls: Send {
    /// Makes one request. The result is what `ioctl` returned.
    fn call(&mut self, target: Target, request: Request, arg: Arg<'_>) -> io::Result<u64>;

    /// Reads (`KVM_GET_DEVICE_ATTR`) or writes (`KVM_SET_DEVICE_ATTR`) an attribute of 64 bits, or of
    /// the lower 32 of them.
    fn attribute(
        &mut self,
        target: Target,
        request: Request,
        group: u32,
        attribute: u64,
        value: &mut u64,
    ) -> io::Result<()>;

    /// Reads (`KVM_GET_ONE_REG`) or writes (`KVM_SET_ONE_REG`) a register of a vCPU. `value` is as
    /// long as the size in its id says.
    fn register(
        &mut self,
        target: Target,
        request: Request,
        id: u64,
        value: &mut [u8],
    ) -> io::Result<()>;

    /// Makes a machine with one vCPU that never runs, with a local APIC if asked, to try out what the
    /// host takes.
    fn scratch(&mut self, local_apic: bool) -> io::Result<Box<dyn Calls>> {
        let _ = local_apic;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Ticks of the counter in a second, which a guest reads from the hardware.
    #[cfg(any(target_arch = "aarch64", test))]
    fn counter_frequency(&mut self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Requests about the pages that a machine wrote, as far as their arguments are addresses.
pub(crate) trait DirtyCalls: Calls {
    /// Fetches the dirty log of a slot: one bit a page.
    fn dirty_log(&mut self, slot: u32, bitmap: &mut [u64]) -> io::Result<()>;

    /// Clears bits of the dirty log of a slot; `bitmap` begins with the bit of `first_page`.
    fn clear_dirty_log(
        &mut self,
        slot: u32,
        first_page: u64,
        page_count: u32,
        bitmap: &mut [u64],
    ) -> io::Result<()>;

    /// Changes the flags of a slot.
    fn set_slot_flags(&mut self, slot: MemorySlot, flags: u32) -> io::Result<()>;
}

impl dyn Calls + '_ {
    /// Makes a request and names it in the error.
    pub(crate) fn make(
        &mut self,
        target: Target,
        request: Request,
        arg: Arg<'_>,
    ) -> Result<u64, KvmError> {
        self.call(target, request, arg)
            .map_err(|source| refused(target, request, source))
    }

    /// Fetches a structure.
    pub(crate) fn get<T: KernelStruct>(
        &mut self,
        target: Target,
        request: Request,
    ) -> Result<T, KvmError> {
        let mut value = T::default();
        self.make(target, request, Arg::Bytes(bytes_of_mut(&mut value)))?;
        Ok(value)
    }

    /// Hands over a structure.
    pub(crate) fn set<T: KernelStruct>(
        &mut self,
        target: Target,
        request: Request,
        value: T,
    ) -> Result<(), KvmError> {
        let mut value = value;
        self.make(target, request, Arg::Bytes(bytes_of_mut(&mut value)))
            .map(drop)
    }

    /// What the machine answers for an extension: 0 means that it has none.
    pub(crate) fn extension(&mut self, capability: u32) -> Result<u64, KvmError> {
        let arg = Arg::Value(capability.into());
        self.make(Target::Vm, KVM_CHECK_EXTENSION, arg)
    }
}

/// The error for a refused request.
pub(crate) fn refused(target: Target, request: Request, source: io::Error) -> KvmError {
    KvmError::Ioctl {
        request: request.name,
        vcpu: match target {
            Target::Vcpu(index) => Some(index),
            _ => None,
        },
        source,
    }
}
