use snapshot_format::{GuestAddress, MemoryRegion, PageIndex, PageRange};

use super::*;
use crate::dirty::recorder::Recorder;

const GIB: u64 = 1 << 30;
const MANUAL: u32 = kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;

fn layout_of(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, len_bytes): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

/// A hole below 4 GiB, and an odd length.
fn layout() -> MemoryLayout {
    layout_of(&[(0, GIB), (4 * GIB, 2 * GIB + 4096)])
}

fn slot(slot: u32, guest_address: u64, len_bytes: u64) -> MemorySlot {
    MemorySlot {
        slot,
        flags: 2,
        guest_address,
        len_bytes,
        host_address: (1 << 40) + guest_address,
    }
}

fn slots() -> [MemorySlot; 2] {
    [slot(0, 0, GIB), slot(7, 4 * GIB, 2 * GIB + 4096)]
}

fn new(recorder: &Recorder, mode: DirtyLogMode) -> Result<KvmDirtyLog, KvmError> {
    KvmDirtyLog::with_calls(Box::new(recorder.clone()), layout(), &slots(), mode)
}

/// A source on a kernel that has everything; what its constructor asked is forgotten.
fn source(recorder: &Recorder, mode: DirtyLogMode) -> KvmDirtyLog {
    recorder.script().known.push((MANUAL, 3));
    let source = new(recorder, mode).unwrap();
    recorder.made();
    source
}

// spec: SRC-04
#[test]
fn the_machine_is_set_to_the_mode() {
    for (mode, flags) in [
        (DirtyLogMode::GetAndClear, 0),
        (DirtyLogMode::ManualProtect, 1),
        (DirtyLogMode::InitiallySet, 3),
    ] {
        let recorder = Recorder::default();
        recorder.script().known.push((MANUAL, 3));
        new(&recorder, mode).unwrap();
        assert_eq!(recorder.made(), [format!("enable {MANUAL} {flags}")]);
    }
    // A kernel that knows of nothing but get and clear is asked for nothing.
    let old = Recorder::default();
    new(&old, DirtyLogMode::GetAndClear).unwrap();
    assert_eq!(old.made(), [""; 0]);
    old.script().known.push((MANUAL, 1));
    new(&old, DirtyLogMode::ManualProtect).unwrap();
    let error = new(&old, DirtyLogMode::InitiallySet).unwrap_err();
    assert!(matches!(error, KvmError::Unsupported { .. }), "{error}");
}

// spec: SRC-05
#[test]
fn machines_whose_memory_is_private_are_refused() {
    let private = |recorder: &Recorder| {
        let error = new(recorder, DirtyLogMode::GetAndClear).unwrap_err();
        matches!(error, KvmError::PrivateMemory { .. })
    };
    let attributes = Recorder::default();
    let capability = kvm_bindings::KVM_CAP_MEMORY_ATTRIBUTES;
    attributes.script().known.push((capability, 8));
    assert!(private(&attributes));
    #[cfg(target_arch = "x86_64")]
    for (errno, is_encrypted) in [
        (libc::EBADF, true),
        (libc::EIO, true),
        (libc::EINVAL, false),
        (libc::ENOTTY, false),
    ] {
        let recorder = Recorder::default();
        recorder.script().refused.push(("sev", errno));
        if is_encrypted {
            assert!(private(&recorder), "{errno}");
        } else {
            new(&recorder, DirtyLogMode::GetAndClear).unwrap();
        }
    }
}

#[test]
fn pages_of_each_slot_land_where_the_layout_has_them() {
    let recorder = Recorder::default();
    recorder.script().log = vec![(0, vec![0b10]), (7, vec![0, 1 << 63])];
    let mut source = source(&recorder, DirtyLogMode::GetAndClear);
    let bitmap = DirtyBitmap::new(layout().page_count());
    source.harvest(&bitmap).unwrap();
    let gib_pages = GIB / PAGE_BYTES;
    let runs: Vec<_> = bitmap.iter_runs().map(|run| run.start).collect();
    assert_eq!(runs, [PageIndex(1), PageIndex(gib_pages + 127)]);
    assert_eq!(recorder.made(), ["get 0", "get 7"]);
}

// spec: SRC-06
#[test]
fn manual_protection_clears_multiples_of_64_pages_or_the_rest_of_the_slot() {
    let words = usize::try_from((2 * GIB / PAGE_BYTES).div_ceil(64) + 1).unwrap();
    let mut log = vec![0; words];
    log[0] = 3;
    log[words - 1] = 1;
    let recorder = Recorder::default();
    recorder.script().log = vec![(7, log)];
    let mut source = source(&recorder, DirtyLogMode::ManualProtect);
    let bitmap = DirtyBitmap::new(layout().page_count());
    source.harvest(&bitmap).unwrap();
    assert_eq!(bitmap.count(), 3);
    // 524,289 pages: the middle is clean, and is not asked for.
    let expected = ["get 0", "get 7", "clear 7 0+262144 2", "clear 7 524288+1 1"];
    assert_eq!(recorder.made(), expected);
}

#[test]
fn logging_is_switched_without_losing_other_flags() {
    let recorder = Recorder::default();
    let mut source = source(&recorder, DirtyLogMode::GetAndClear);
    source.start().unwrap();
    source.stop().unwrap();
    let expected = ["flags 0 3", "flags 7 3", "flags 0 2", "flags 7 2"];
    assert_eq!(recorder.made(), expected);
}

#[test]
fn a_start_that_fails_half_way_leaves_no_slot_logged() {
    let recorder = Recorder::default();
    let mut source = source(&recorder, DirtyLogMode::GetAndClear);
    recorder.script().refused.push(("flags 7", libc::ENOMEM));
    source.start().unwrap_err();
    assert_eq!(recorder.made(), ["flags 0 3", "flags 7 3", "flags 0 2"]);
}

// spec: SRC-09
#[test]
fn slots_that_were_added_are_logged_and_their_first_bits_are_nobody_s_writes() {
    let recorder = Recorder::default();
    let mut source = source(&recorder, DirtyLogMode::InitiallySet);
    let handle = source.slots();
    source.start().unwrap();
    recorder.made();
    // The upper region grows by a page; its slot is another one.
    let grown = layout_of(&[(0, GIB), (4 * GIB, 2 * GIB + 8192)]);
    // SAFETY: the machine is a recording.
    unsafe { handle.replace(vec![slots()[0], slot(8, 4 * GIB, 2 * GIB + 8192)]) };
    recorder.script().log = vec![(8, vec![u64::MAX])];
    let changed = DirtyBitmap::new(grown.page_count());
    source.change_layout(&grown, &changed).unwrap();
    assert!(changed.is_clean(), "{changed:?}");
    let made = recorder.made();
    assert_eq!(
        made,
        ["flags 0 3", "flags 8 3", "get 8", "clear 8 0+262144 64"]
    );
    assert_eq!(*source.layout(), grown);

    // Slots that nobody named, and slots that leave memory bare: the source stays where it is.
    for slots in [None, Some(vec![slots()[0]])] {
        if let Some(slots) = slots {
            // SAFETY: as above.
            unsafe { handle.replace(slots) };
        }
        let changed = DirtyBitmap::new(layout().page_count());
        source.change_layout(&layout(), &changed).unwrap_err();
        assert_eq!(*source.layout(), grown);
    }
    assert_eq!(recorder.made(), [""; 0]);
}

#[test]
fn a_slot_of_one_page_and_one_of_an_odd_length_are_harvested_to_their_end() {
    let layout = layout_of(&[(4096, 4096), (16384, 65 * 4096)]);
    let slots = [slot(0, 4096, 4096), slot(1, 16384, 65 * 4096)];
    let recorder = Recorder::default();
    // A kernel pads its log to words of 64 bits; here with bits set.
    recorder.script().log = vec![(0, vec![u64::MAX]), (1, vec![0, u64::MAX])];
    let calls = Box::new(recorder.clone());
    let mode = DirtyLogMode::GetAndClear;
    let mut source = KvmDirtyLog::with_calls(calls, layout, &slots, mode).unwrap();
    let found = DirtyBitmap::new(66);
    source.harvest(&found).unwrap();
    let runs: Vec<_> = found.iter_runs().collect();
    assert_eq!(runs, [PageRange::new(0, 1), PageRange::new(65, 1)]);
}
