//! Every cap of the format, in one table. Specified in `specs/00-conventions.md`.

/// Memory regions in one layout.
pub const MAX_REGIONS: usize = 1024;

/// One past the largest guest physical address: 52 bits, the most that x86-64 and Arm define.
pub const MAX_GUEST_ADDRESS: u64 = 1 << 52;

/// Leaves of 64 MiB that one layout may touch: 4 TiB of contiguous memory.
pub const MAX_LEAVES: usize = 65_536;

/// Data files that one placement may depend on. Reaching it means: take a full snapshot.
pub const MAX_DATA_FILES: usize = 4096;

/// Files that one placement may name.
pub const MAX_FILES: usize = 64;

/// Sections in one file.
pub const MAX_SECTIONS: usize = 8192;

/// Bytes of a file that is read whole: every `*.vms` file.
pub const MAX_ENVELOPE_BYTES: u64 = 64 << 20;

/// Bytes of one section of a file that is read whole.
pub const MAX_SECTION_BYTES: u64 = 16 << 20;

/// Bytes of the root section of a `memory.map`.
pub const MAX_MAP_ROOT_BYTES: u64 = 8 << 20;

/// Bytes of one leaf of a page map.
pub const MAX_LEAF_BYTES: usize = 536_608;

/// Bytes of one payload in bitcode, of whatever kind.
pub const MAX_BITCODE_BYTES: usize = 1 << 20;

/// Bytes of the manifest's payload in bitcode.
pub const MAX_MANIFEST_BYTES: usize = 64 << 10;

/// Bytes of the placement's payload in bitcode.
pub const MAX_PLACEMENT_BYTES: usize = 512 << 10;

/// Bytes of memory that decoding may take for each byte of a payload in bitcode.
pub const MAX_DECODE_AMPLIFICATION: usize = 256;

/// Bytes of the VMM's configuration in a manifest.
pub const MAX_VM_CONFIG_BYTES: usize = 1 << 20;

/// Bytes of a name: of a virtual machine, a snapshot, a branch, a tag, the key of a label.
pub const MAX_NAME_BYTES: usize = 128;

/// Labels of one snapshot.
pub const MAX_LABELS: usize = 64;

/// Bytes of the value of a label.
pub const MAX_LABEL_VALUE_BYTES: usize = 256;

/// Tags of one snapshot.
pub const MAX_TAGS: usize = 64;

/// Bytes of the description of a snapshot.
pub const MAX_DESCRIPTION_BYTES: usize = 4096;

/// Runs of pages in one working set.
pub const MAX_WORKING_SET_RUNS: usize = 262_144;

/// Pages of which one working set holds the bytes: 1 GiB.
pub const MAX_WORKING_SET_PAGES: u64 = 262_144;

/// Bytes of one shard of a file that parity covers.
pub const MAX_PARITY_SHARD_BYTES: u32 = 1 << 20;

/// Shards of one file that parity covers: 1 TiB in the longest.
pub const MAX_PARITY_SHARDS: usize = 1 << 20;

/// Shards of one group, and recovery shards of one group.
pub const MAX_PARITY_GROUP: u16 = 128;

/// Bytes of the table of a parity file.
pub const MAX_PARITY_TABLE_BYTES: u64 = 64 << 20;

/// Bytes of all recovery shards of a parity file.
pub const MAX_PARITY_BYTES: u64 = 1 << 41;

/// vCPUs of one machine.
pub const MAX_VCPUS: usize = 1024;

/// Bytes of the payload of one vCPU.
pub const MAX_VCPU_BYTES: usize = 256 << 10;

/// CPUID entries of one vCPU.
pub const MAX_CPUID_ENTRIES: usize = 256;

/// Model-specific registers of one vCPU.
pub const MAX_MSRS: usize = 4096;

/// Extended control registers of one vCPU.
pub const MAX_XCRS: usize = 16;

/// Bytes of the XSAVE area of one vCPU.
pub const MAX_XSAVE_BYTES: usize = 64 << 10;

/// Bytes of the page of one local APIC.
pub const MAX_LAPIC_BYTES: usize = 4 << 10;

/// Bytes of the state of a nested guest of one vCPU.
pub const MAX_NESTED_BYTES: usize = 64 << 10;

/// Bytes of the payload of what a machine has once.
pub const MAX_VM_STATE_BYTES: usize = 256 << 10;

/// Routes of interrupts of one machine: what KVM takes at most.
pub const MAX_GSI_ROUTES: usize = 4096;

/// System registers of one aarch64 vCPU.
pub const MAX_SYSTEM_REGISTERS: usize = 2048;

/// Registers of the CPU interface of one aarch64 vCPU.
pub const MAX_ICC_REGISTERS: usize = 64;

/// Registers of one aarch64 vCPU that only its hypervisor has.
pub const MAX_HYPERVISOR_REGISTERS: usize = 1024;

/// ID registers in a fingerprint.
pub const MAX_ID_REGISTERS: usize = 256;

/// Bytes of the payload of one interrupt controller of aarch64.
pub const MAX_GIC_BYTES: usize = 1 << 20;

/// Bytes of an interrupt controller that only its hypervisor understands.
pub const MAX_GIC_BLOB_BYTES: usize = 960 << 10;

/// Registers of one distributor.
pub const MAX_DISTRIBUTOR_REGISTERS: usize = 8192;

/// Registers of one redistributor.
pub const MAX_REDISTRIBUTOR_REGISTERS: usize = 512;

/// Registers of the parts of a GICv2 that each vCPU has.
pub const MAX_BANKED_REGISTERS: usize = 4096;

/// Regions of redistributors.
pub const MAX_REDISTRIBUTOR_REGIONS: usize = 64;

/// Words of the levels of shared interrupt lines.
pub const MAX_LINE_WORDS: usize = 256;

/// Interrupt translation services of one machine.
pub const MAX_ITS: usize = 64;

/// Registers of one interrupt translation service.
pub const MAX_ITS_REGISTERS: usize = 64;

/// Bytes of the name of a kind of device.
pub const MAX_DEVICE_KIND_BYTES: usize = 64;

/// Bytes of the state of one device.
pub const MAX_DEVICE_BYTES: usize = 960 << 10;

/// Bytes of the payload of one device.
pub const MAX_DEVICE_SECTION_BYTES: usize = 1 << 20;

/// Bytes of the payload of a fingerprint.
pub const MAX_FINGERPRINT_BYTES: usize = 64 << 10;

/// Capabilities in a fingerprint.
pub const MAX_CAPABILITIES: usize = 1024;

/// Bytes of a CPU vendor or of a kernel release in a fingerprint.
pub const MAX_HOST_TEXT_BYTES: usize = 128;
