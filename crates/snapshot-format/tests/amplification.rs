//! A hostile payload decodes to a bounded amount of memory.
//!
//! Each case is a payload that is as dense as a hostile writer can make it: lists of zeros, which
//! bitcode packs to a fraction of a bit each, filled up to the limit of its kind.

// UNSAFETY: the allocator that counts.
#![expect(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitcode::Encode;
use snapshot_format::page_map::{FRAME_BYTES, FRAME_PAGES};
use snapshot_format::state::{
    BankedRegister, Capability, DeviceState, Fingerprint, GicBlob, GicRegister, GicV2, GicV3,
    GsiRoute, HypervisorRegister, Msr, Redistributor, SystemRegister, VcpuArm64, VcpuX86, VmX86,
};
use snapshot_format::{
    Arch, Codec, Digest, EnvelopeBuilder, FileKind, FrameCoding, FrameEntry, IndexLeaf,
    IndexLeafBuilder, LEAF_PAGES, Manifest, Placement, SectionKind, SectionPayload, SnapshotId,
    StatePayload, limits,
};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Only one case may count at a time.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: every call is handed to the system allocator as it is; counting touches no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `work` held at one time.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let value = work();
    let peak = PEAK.load(Ordering::Relaxed);
    drop(value);
    peak.saturating_sub(before)
}

/// That decoding a payload of `section`'s length stays within the bound.
fn check(name: &str, section: &SectionPayload, decode: impl FnOnce() -> bool) {
    let mut accepted = true;
    let peak = peak(|| accepted = decode());
    let bound = section.bytes.len() * limits::MAX_DECODE_AMPLIFICATION;
    println!("{name}: {} bytes take {peak}", section.bytes.len());
    assert!(
        !accepted,
        "{name}: a payload beyond its counts was accepted"
    );
    assert!(
        peak <= bound,
        "{name}: {peak} bytes of memory, at most {bound} are allowed"
    );
}

/// The largest payload of at most `limit` bytes that `encode` makes of a count, nearly.
fn fill(limit: usize, encode: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let len_of_limit = encode(limit).len();
    let mut count = limit * limit / len_of_limit;
    loop {
        let payload = encode(count);
        if payload.len() <= limit {
            return payload;
        }
        count -= count / 100;
    }
}

/// The same fields as the wire types that are not public.
#[derive(Encode)]
struct ManifestV1 {
    id: [u8; 16],
    vm: String,
    seq: u64,
    branch: String,
    parent: Option<([u8; 16], [u8; 32])>,
    created_unix_ms: u64,
    regions: Vec<(u64, u64)>,
    map_root: Option<[u8; 32]>,
    state: Option<[u8; 32]>,
}

#[derive(Encode)]
struct PlacementV1 {
    id: [u8; 16],
    generation: u32,
    manifest: [u8; 32],
    files: Vec<(u16, u32, u64, [u8; 32])>,
    dependencies: Vec<([u8; 16], u32, [u8; 32])>,
}

fn file(kind: FileKind, section: &SectionPayload) -> Vec<u8> {
    let id = SnapshotId([1; 16]);
    EnvelopeBuilder::new(kind, Arch::None, id)
        .section(section)
        .section(&SectionPayload::raw(
            SectionKind::FLATTENED_MAP,
            0,
            1,
            Vec::new(),
        ))
        .finish()
}

fn bitcode_section(kind: SectionKind, bytes: Vec<u8>) -> SectionPayload {
    SectionPayload {
        codec: Codec::Bitcode,
        ..SectionPayload::raw(kind, 0, 1, bytes)
    }
}

// spec: CNV-07
#[test]
fn a_manifest_of_zeros_is_bounded() {
    let _turn = TURN.lock();
    let payload = fill(limits::MAX_MANIFEST_BYTES, |count| {
        bitcode::encode(&ManifestV1 {
            id: [1; 16],
            vm: "v".to_owned(),
            seq: 0,
            branch: "b".to_owned(),
            parent: None,
            created_unix_ms: 0,
            regions: vec![(0, 0); count],
            map_root: None,
            state: None,
        })
    });
    let section = bitcode_section(SectionKind::MANIFEST, payload);
    let file = file(FileKind::Manifest, &section);
    check("manifest", &section, || Manifest::parse(&file).is_ok());
}

// spec: CNV-07
#[test]
fn a_placement_of_zeros_is_bounded() {
    let _turn = TURN.lock();
    for files in [true, false] {
        let payload = fill(limits::MAX_PLACEMENT_BYTES, |count| {
            bitcode::encode(&PlacementV1 {
                id: [1; 16],
                generation: 1,
                manifest: [0; 32],
                files: vec![(0, 0, 0, [0; 32]); if files { count } else { 0 }],
                dependencies: vec![([0; 16], 0, [0; 32]); if files { 0 } else { count }],
            })
        });
        let section = bitcode_section(SectionKind::PLACEMENT, payload);
        let file = file(FileKind::Placement, &section);
        check("placement", &section, || Placement::parse(&file).is_ok());
    }
}

/// That the densest payload of `T` stays within the bound.
fn check_state<T: StatePayload>(name: &str, limit: usize, value: impl Fn(usize) -> T) {
    let payload = fill(limit, |count| value(count).encode());
    let section = bitcode_section(T::KIND, payload);
    check(name, &section, || section.value::<T>().is_ok());
}

// spec: CNV-07
#[test]
fn machine_state_of_zeros_is_bounded() {
    let _turn = TURN.lock();
    check_state("vcpu", limits::MAX_VCPU_BYTES, |count| VcpuX86 {
        msrs: vec![Msr::default(); count],
        ..VcpuX86::default()
    });
    check_state("vcpu blob", limits::MAX_VCPU_BYTES, |count| VcpuX86 {
        nested: vec![0; count],
        ..VcpuX86::default()
    });
    check_state("vm", limits::MAX_VM_STATE_BYTES, |count| VmX86 {
        routes: Some(vec![GsiRoute::default(); count]),
        ..VmX86::default()
    });
    check_state("device", limits::MAX_DEVICE_SECTION_BYTES, |count| {
        DeviceState {
            bytes: vec![0; count],
            ..DeviceState::default()
        }
    });
    check_state("fingerprint", limits::MAX_FINGERPRINT_BYTES, |count| {
        Fingerprint {
            capabilities: vec![Capability::default(); count],
            ..Fingerprint::default()
        }
    });
}

// spec: CNV-07
#[test]
fn arm_state_of_zeros_is_bounded() {
    let _turn = TURN.lock();
    check_state("vcpu registers", limits::MAX_VCPU_BYTES, |count| {
        VcpuArm64 {
            system: vec![SystemRegister::default(); count],
            ..VcpuArm64::default()
        }
    });
    check_state("vcpu extras", limits::MAX_VCPU_BYTES, |count| VcpuArm64 {
        extras: vec![HypervisorRegister::default(); count],
        ..VcpuArm64::default()
    });
    check_state("distributor", limits::MAX_GIC_BYTES, |count| GicV3 {
        distributor: vec![GicRegister::default(); count],
        ..GicV3::default()
    });
    check_state("redistributors", limits::MAX_GIC_BYTES, |count| GicV3 {
        redistributors: vec![Redistributor::default(); count],
        ..GicV3::default()
    });
    check_state("gic-v2", limits::MAX_GIC_BYTES, |count| GicV2 {
        banked: vec![BankedRegister::default(); count],
        ..GicV2::default()
    });
    check_state("gic-blob", limits::MAX_GIC_BYTES, |count| GicBlob {
        bytes: vec![0; count],
        ..GicBlob::default()
    });
}

#[test]
fn a_payload_beyond_its_limit_is_not_decoded() {
    let _turn = TURN.lock();
    let bytes = vec![0; limits::MAX_MANIFEST_BYTES + 1];
    let section = bitcode_section(SectionKind::MANIFEST, bytes);
    let file = file(FileKind::Manifest, &section);
    let mut message = String::new();
    let peak = peak(|| message = Manifest::parse(&file).expect_err("too long").to_string());
    assert!(message.contains("at most 65536"), "{message}");
    // The copy of the section, and little else.
    assert!(peak < 2 * limits::MAX_MANIFEST_BYTES, "{peak} bytes");
}

// spec: CNV-07
#[test]
fn a_leaf_of_frames_is_bounded() {
    let _turn = TURN.lock();
    let mut leaf = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    leaf.present().insert(0, LEAF_PAGES);
    (0..LEAF_PAGES).for_each(|_| leaf.digest(Digest([1; 32])));
    let plain = FrameEntry::of(FrameCoding::Plain, &vec![0; FRAME_BYTES]);
    let frames = vec![plain; LEAF_PAGES / FRAME_PAGES];
    let bytes = leaf.finish_frames(0, frames).expect("all frames").encode();
    let peak = peak(|| IndexLeaf::parse(&bytes, 0).expect("what was written"));
    println!("leaf of frames: {} bytes take {peak}", bytes.len());
    assert!(peak <= 2 * bytes.len(), "{peak} bytes of memory");
    // A count that the bits do not bear out takes nothing.
    let mut few = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    few.present().insert(0, 1);
    few.digest(Digest([1; 32]));
    let mut bytes = few.finish(0).expect("one page").encode();
    bytes[28..32].fill(0xff);
    let peak = self::peak(|| IndexLeaf::parse(&bytes, 0).expect_err("a false count"));
    assert!(peak <= 4 * bytes.len(), "{peak} bytes of memory");
}
