//! The KVM requests that this crate makes, with their numbers as the kernel's ABI fixes them.

use std::mem::size_of;

use kvm_bindings as kvm;

/// One request: its number and its name for errors and recordings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// The name in `linux/kvm.h`.
    pub(crate) name: &'static str,
    /// The number that `ioctl` takes.
    pub(crate) number: u32,
    /// Bytes of the argument that the kernel certainly touches; 0 where it takes a value.
    pub(crate) arg_bytes: usize,
    /// Bytes of one entry where the argument begins with a count of entries; else 0.
    pub(crate) entry_bytes: usize,
}

const KVMIO: u32 = 0xae;
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn request(name: &'static str, direction: u32, nr: u32, arg_bytes: usize) -> Request {
    assert!(arg_bytes < 1 << 14);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sizes of kernel structures, checked by the assertion"
    )]
    let size = arg_bytes as u32;
    Request {
        name,
        number: direction << 30 | size << 16 | KVMIO << 8 | nr,
        arg_bytes,
        entry_bytes: 0,
    }
}

const fn entries<T, E>(name: &'static str, direction: u32, nr: u32) -> Request {
    let mut request = request(name, direction, nr, size_of::<T>());
    request.entry_bytes = size_of::<E>();
    request
}

const fn set_list<T, E>(name: &'static str, nr: u32) -> Request {
    entries::<T, E>(name, WRITE, nr)
}

const fn both_list<T, E>(name: &'static str, nr: u32) -> Request {
    entries::<T, E>(name, READ | WRITE, nr)
}

const fn value(name: &'static str, nr: u32) -> Request {
    request(name, NONE, nr, 0)
}

const fn get<T>(name: &'static str, nr: u32) -> Request {
    request(name, READ, nr, size_of::<T>())
}

const fn set<T>(name: &'static str, nr: u32) -> Request {
    request(name, WRITE, nr, size_of::<T>())
}

const fn both<T>(name: &'static str, nr: u32) -> Request {
    request(name, READ | WRITE, nr, size_of::<T>())
}

macro_rules! requests {
    ($($name:ident = $make:ident $(::<$($type:ty),*>)? ($nr:expr);)*) => {
        $(pub(crate) const $name: Request = $make $(::<$($type),*>)? (stringify!($name), $nr);)*
    };
}

// To the system.
requests! {
    KVM_GET_API_VERSION = value(0x00);
    KVM_CREATE_VM = value(0x01);
    KVM_CHECK_EXTENSION = value(0x03);
}

// To the machine.
requests! {
    KVM_CREATE_VCPU = value(0x41);
    KVM_SET_USER_MEMORY_REGION = set::<kvm::kvm_userspace_memory_region>(0x46);
    KVM_GET_DIRTY_LOG = set::<kvm::kvm_dirty_log>(0x42);
    KVM_CLEAR_DIRTY_LOG = both::<kvm::kvm_clear_dirty_log>(0xc0);
    KVM_ENABLE_CAP = set::<kvm::kvm_enable_cap>(0xa3);
    KVM_RESET_DIRTY_RINGS = value(0xc7);
}

/// Its number says 8 bytes, and the kernel reads and writes a command.
#[cfg(target_arch = "x86_64")]
pub(crate) const KVM_MEMORY_ENCRYPT_OP: Request = Request {
    arg_bytes: size_of::<kvm::kvm_sev_cmd>(),
    ..both::<u64>("KVM_MEMORY_ENCRYPT_OP", 0xba)
};

#[cfg(target_arch = "x86_64")]
requests! {
    KVM_GET_MSR_INDEX_LIST = both_list::<kvm::kvm_msr_list, u32>(0x02);
    KVM_GET_SUPPORTED_CPUID = both_list::<kvm::kvm_cpuid2, kvm::kvm_cpuid_entry2>(0x05);
    KVM_GET_IRQCHIP = both::<kvm::kvm_irqchip>(0x62);
    KVM_SET_IRQCHIP = get::<kvm::kvm_irqchip>(0x63);
    KVM_SET_GSI_ROUTING = set_list::<kvm::kvm_irq_routing, [u32; 12]>(0x6a);
    KVM_SET_CLOCK = set::<kvm::kvm_clock_data>(0x7b);
    KVM_GET_CLOCK = get::<kvm::kvm_clock_data>(0x7c);
    KVM_GET_PIT2 = get::<kvm::kvm_pit_state2>(0x9f);
    KVM_SET_PIT2 = set::<kvm::kvm_pit_state2>(0xa0);
}

// To a vCPU.
requests! {
    KVM_GET_ONE_REG = set::<kvm::kvm_one_reg>(0xab);
    KVM_SET_ONE_REG = set::<kvm::kvm_one_reg>(0xac);
}

#[cfg(target_arch = "x86_64")]
requests! {
    KVM_GET_REGS = get::<kvm::kvm_regs>(0x81);
    KVM_SET_REGS = set::<kvm::kvm_regs>(0x82);
    KVM_GET_SREGS = get::<kvm::kvm_sregs>(0x83);
    KVM_SET_SREGS = set::<kvm::kvm_sregs>(0x84);
    KVM_GET_MSRS = both_list::<kvm::kvm_msrs, kvm::kvm_msr_entry>(0x88);
    KVM_SET_MSRS = set_list::<kvm::kvm_msrs, kvm::kvm_msr_entry>(0x89);
    KVM_GET_LAPIC = get::<kvm::kvm_lapic_state>(0x8e);
    KVM_SET_LAPIC = set::<kvm::kvm_lapic_state>(0x8f);
    KVM_SET_CPUID2 = set_list::<kvm::kvm_cpuid2, kvm::kvm_cpuid_entry2>(0x90);
    KVM_GET_CPUID2 = both_list::<kvm::kvm_cpuid2, kvm::kvm_cpuid_entry2>(0x91);
    KVM_X86_SETUP_MCE = set::<u64>(0x9c);
    KVM_GET_MP_STATE = get::<kvm::kvm_mp_state>(0x98);
    KVM_SET_MP_STATE = set::<kvm::kvm_mp_state>(0x99);
    KVM_GET_VCPU_EVENTS = get::<kvm::kvm_vcpu_events>(0x9f);
    KVM_SET_VCPU_EVENTS = set::<kvm::kvm_vcpu_events>(0xa0);
    KVM_GET_DEBUGREGS = get::<kvm::kvm_debugregs>(0xa1);
    KVM_SET_DEBUGREGS = set::<kvm::kvm_debugregs>(0xa2);
    KVM_SET_TSC_KHZ = value(0xa2);
    KVM_GET_TSC_KHZ = value(0xa3);
    KVM_GET_XSAVE = get::<kvm::kvm_xsave>(0xa4);
    KVM_SET_XSAVE = set::<kvm::kvm_xsave>(0xa5);
    KVM_GET_XCRS = get::<kvm::kvm_xcrs>(0xa6);
    KVM_SET_XCRS = set::<kvm::kvm_xcrs>(0xa7);
    KVM_KVMCLOCK_CTRL = value(0xad);
    KVM_GET_NESTED_STATE = both::<kvm::kvm_nested_state>(0xbe);
    KVM_SET_NESTED_STATE = set::<kvm::kvm_nested_state>(0xbf);
    KVM_GET_SREGS2 = get::<kvm::kvm_sregs2>(0xcc);
    KVM_SET_SREGS2 = set::<kvm::kvm_sregs2>(0xcd);
    KVM_GET_XSAVE2 = get::<kvm::kvm_xsave>(0xcf);
    KVM_SET_DEVICE_ATTR = set::<kvm::kvm_device_attr>(0xe1);
    KVM_GET_DEVICE_ATTR = set::<kvm::kvm_device_attr>(0xe2);
}

/// Requests of aarch64, whose structures the bindings have only there. A `[u32; 8]` is `struct
/// kvm_vcpu_init`, a `[u64; 8]` `struct kvm_vcpu_events`.
#[cfg(any(target_arch = "aarch64", test))]
pub(crate) mod arm64 {
    use super::{Request, both, both_list, get, kvm, set};

    requests! {
        KVM_GET_MP_STATE = get::<u32>(0x98);
        KVM_SET_MP_STATE = set::<u32>(0x99);
        KVM_GET_VCPU_EVENTS = get::<[u64; 8]>(0x9f);
        KVM_SET_VCPU_EVENTS = set::<[u64; 8]>(0xa0);
        KVM_ARM_VCPU_INIT = set::<[u32; 8]>(0xae);
        KVM_ARM_PREFERRED_TARGET = get::<[u32; 8]>(0xaf);
        KVM_GET_REG_LIST = both_list::<u64, u64>(0xb0);
        KVM_ARM_SET_COUNTER_OFFSET = set::<[u64; 2]>(0xb5);
        KVM_ARM_VCPU_FINALIZE = set::<u32>(0xc2);
        KVM_CREATE_DEVICE = both::<[u32; 3]>(0xe0);
        KVM_SET_DEVICE_ATTR = set::<kvm::kvm_device_attr>(0xe1);
        KVM_GET_DEVICE_ATTR = set::<kvm::kvm_device_attr>(0xe2);
    }
}
