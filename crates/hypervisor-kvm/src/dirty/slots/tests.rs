use snapshot_format::MemoryRegion;

use super::*;

const GIB: u64 = 1 << 30;

/// Memory below a hole that ends at 4 GiB, and above it; the last region is of an odd length.
fn layout() -> MemoryLayout {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    MemoryLayout::new(vec![region(0, 3 * GIB), region(4 * GIB, 2 * GIB + 4096)]).unwrap()
}

fn slot(slot: u32, guest_address: u64, len_bytes: u64) -> MemorySlot {
    MemorySlot {
        slot,
        flags: 0,
        guest_address,
        len_bytes,
        host_address: guest_address.wrapping_add(1 << 40),
    }
}

fn refused(slots: &[MemorySlot]) -> String {
    SlotTable::new(layout(), slots).unwrap_err().to_string()
}

// spec: SRC-08
#[test]
fn pages_of_each_slot_land_where_the_layout_has_them() {
    // In no order, the upper region in two slots.
    let slots = [
        slot(9, 5 * GIB, GIB + 4096),
        slot(1, 0, 3 * GIB),
        slot(4, 4 * GIB, GIB),
    ];
    let table = SlotTable::new(layout(), &slots).unwrap();
    let pages = |number| table.get(number).unwrap().pages;
    let gib = GIB / PAGE_BYTES;
    assert_eq!(pages(1), PageRange::new(0, 3 * gib));
    assert_eq!(pages(4), PageRange::new(3 * gib, gib));
    assert_eq!(pages(9), PageRange::new(4 * gib, gib + 1));
    assert!(table.get(2).is_none());
}

// spec: SRC-08
#[test]
fn slots_that_are_no_part_of_the_layout_are_refused() {
    for bad in [
        slot(0, 0, 0),
        slot(0, 1, 4096),
        slot(0, 0, 4095),
        slot(0, 3 * GIB, 4096),
        slot(0, 3 * GIB - 4096, 8192),
        slot(0, 6 * GIB, 8192),
        slot(0, u64::MAX - 4095, 4096),
    ] {
        let message = refused(&[bad]);
        assert!(message.contains("outside"), "{bad:?}: {message}");
    }
    let whole = [slot(0, 0, 3 * GIB), slot(1, 4 * GIB, 2 * GIB + 4096)];
    let gap = [whole[0], slot(1, 4 * GIB, GIB)];
    assert!(refused(&gap).contains("0x140000000"), "{}", refused(&gap));
    assert!(refused(&whole[1..]).contains("0x0;"));
    let overlap = [whole[0], whole[1], slot(2, GIB, 4096)];
    assert!(refused(&overlap).contains("2 and 0"));
    let same = [slot(1, 0, 3 * GIB), whole[1]];
    assert!(refused(&same).contains("1 and 1"));
    // The same memory in the address space of system management mode.
    let other_space = [whole[0], whole[1], slot(1 << 16, 0, 3 * GIB)];
    SlotTable::new(layout(), &other_space).unwrap();
}

// spec: SRC-05
#[test]
fn memory_that_only_the_guest_can_read_is_refused() {
    let private = MemorySlot {
        flags: KVM_MEM_GUEST_MEMFD,
        ..slot(0, 0, 3 * GIB)
    };
    let error = SlotTable::new(layout(), &[private]).unwrap_err();
    assert!(matches!(error, KvmError::PrivateMemory { .. }), "{error}");
}

// spec: SRC-09
#[test]
fn pages_with_other_host_memory_than_before_count_as_written() {
    let old = [slot(0, 0, 3 * GIB), slot(1, 4 * GIB, 2 * GIB + 4096)];
    let old = SlotTable::new(layout(), &old).unwrap();
    let moved = |slot: MemorySlot| MemorySlot {
        host_address: slot.host_address + 4096,
        ..slot
    };
    // The first GiB keeps its memory, whatever its slot is called; the second does not.
    let new = [
        slot(7, 0, GIB),
        moved(slot(8, GIB, GIB)),
        slot(0, 2 * GIB, GIB),
        slot(1, 4 * GIB, 2 * GIB + 4096),
    ];
    let new = SlotTable::new(layout(), &new).unwrap();
    let changed = DirtyBitmap::new(layout().page_count());
    old.mark_replaced(&new, &changed);
    let gib = GIB / PAGE_BYTES;
    let runs: Vec<_> = changed.iter_runs().collect();
    assert_eq!(runs, [PageRange::new(gib, gib)]);
}
