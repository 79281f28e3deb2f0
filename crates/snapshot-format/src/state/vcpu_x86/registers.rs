//! Registers of an x86-64 vCPU, in the shapes that KVM reports them in.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::state::bytes::{as_hex_number, as_hex_numbers};

/// The general registers (`struct kvm_regs`).
#[expect(missing_docs, reason = "the names are the architecture's")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl Registers {
    /// Every register with its name, in the order of the fields.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 18] {
        [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rsp", self.rsp),
            ("rbp", self.rbp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
            ("rip", self.rip),
            ("rflags", self.rflags),
        ]
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.named();
        let mut map = serializer.serialize_map(Some(named.len()))?;
        for (name, value) in named {
            map.serialize_entry(name, &format_args!("{value:#x}"))?;
        }
        map.end()
    }
}

/// A segment register with its hidden part (`struct kvm_segment`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Segment {
    /// Linear address of the first byte.
    #[serde(serialize_with = "as_hex_number")]
    pub base: u64,
    /// The last byte, in bytes.
    #[serde(serialize_with = "as_hex_number")]
    pub limit: u32,
    /// The visible part.
    #[serde(serialize_with = "as_hex_number")]
    pub selector: u16,
    /// Type field of the descriptor.
    pub kind: u8,
    /// Present bit.
    pub present: u8,
    /// Privilege level.
    pub dpl: u8,
    /// Default operation size bit.
    pub db: u8,
    /// Code or data (1), or system (0).
    pub s: u8,
    /// 64-bit code segment bit.
    pub l: u8,
    /// Granularity bit.
    pub g: u8,
    /// Bit for software.
    pub avl: u8,
    /// Set when the register holds no usable segment.
    pub unusable: u8,
}

/// A descriptor table register (`struct kvm_dtable`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DescriptorTable {
    /// Linear address of the table.
    #[serde(serialize_with = "as_hex_number")]
    pub base: u64,
    /// Its last byte, in bytes.
    pub limit: u16,
}

/// The system registers (`struct kvm_sregs2`, or `kvm_sregs` from an older kernel).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SpecialRegisters {
    /// Code segment.
    pub cs: Segment,
    /// Data segment.
    pub ds: Segment,
    /// Extra segment.
    pub es: Segment,
    /// The segment that most systems keep per thread or per CPU.
    pub fs: Segment,
    /// As `fs`.
    pub gs: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldt: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
    /// Paging and protection.
    #[serde(serialize_with = "as_hex_number")]
    pub cr0: u64,
    /// Address of the last page fault.
    #[serde(serialize_with = "as_hex_number")]
    pub cr2: u64,
    /// Root of the page tables.
    #[serde(serialize_with = "as_hex_number")]
    pub cr3: u64,
    /// Features in use.
    #[serde(serialize_with = "as_hex_number")]
    pub cr4: u64,
    /// Task priority.
    #[serde(serialize_with = "as_hex_number")]
    pub cr8: u64,
    /// Extended features in use.
    #[serde(serialize_with = "as_hex_number")]
    pub efer: u64,
    /// Where the local APIC is, and its mode.
    #[serde(serialize_with = "as_hex_number")]
    pub apic_base: u64,
    /// PAE page directory pointers; `None` where the vCPU does not use them, or the kernel did
    /// not report them.
    pub pdptrs: Option<[u64; 4]>,
    /// Vector of an injected interrupt, where the kernel reported it here (`kvm_sregs`) and not
    /// with the events.
    pub injected_interrupt: Option<u8>,
}

/// The debug registers (`struct kvm_debugregs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DebugRegisters {
    /// Breakpoint addresses DR0 to DR3.
    #[serde(serialize_with = "as_hex_numbers")]
    pub db: [u64; 4],
    /// Status.
    #[serde(serialize_with = "as_hex_number")]
    pub dr6: u64,
    /// Control.
    #[serde(serialize_with = "as_hex_number")]
    pub dr7: u64,
    /// Flags of the interface; none is defined.
    pub flags: u64,
}

/// One extended control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Xcr {
    /// Its number; 0 is XCR0.
    pub index: u32,
    /// Its value.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u64,
}
