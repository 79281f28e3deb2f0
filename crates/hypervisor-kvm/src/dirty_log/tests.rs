use std::sync::{Arc, Mutex};

use snapshot_format::{MemoryRegion, PageIndex};

use super::*;
use crate::calls::{Arg, Target};
use crate::request::Request;

const GIB: u64 = 1 << 30;

/// A log that is scripted, and that records how it is cleared.
#[derive(Default)]
struct Recorder {
    made: Arc<Mutex<Vec<String>>>,
    log: Vec<(u32, Vec<u64>)>,
}

impl Calls for Recorder {
    fn call(&mut self, _: Target, request: Request, _: Arg<'_>) -> io::Result<u64> {
        Err(io::Error::other(request.name))
    }

    #[cfg(target_arch = "x86_64")]
    fn attribute(&mut self, _: Target, _: Request, _: u32, _: u64, _: &mut u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn dirty_log(&mut self, slot: u32, bitmap: &mut [u64]) -> io::Result<()> {
        self.made.lock().unwrap().push(format!("get {slot}"));
        bitmap.fill(0);
        for (_, words) in self.log.iter().filter(|(of, _)| *of == slot) {
            bitmap[..words.len()].copy_from_slice(words);
        }
        Ok(())
    }

    fn clear_dirty_log(
        &mut self,
        slot: u32,
        first_page: u64,
        page_count: u32,
        bitmap: &mut [u64],
    ) -> io::Result<()> {
        let set: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
        let made = format!("clear {slot} {first_page}+{page_count} {set}");
        self.made.lock().unwrap().push(made);
        Ok(())
    }

    fn set_slot_flags(&mut self, slot: MemorySlot, flags: u32) -> io::Result<()> {
        let made = format!("flags {} {flags}", slot.slot);
        self.made.lock().unwrap().push(made);
        Ok(())
    }
}

fn layout() -> MemoryLayout {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    MemoryLayout::new(vec![region(0, GIB), region(4 * GIB, 2 * GIB + 4096)]).unwrap()
}

fn slot(slot: u32, guest_address: u64, len_bytes: u64) -> MemorySlot {
    MemorySlot {
        slot,
        flags: 2,
        guest_address,
        len_bytes,
        host_address: 1 << 40,
    }
}

fn slots() -> [MemorySlot; 2] {
    [slot(0, 0, GIB), slot(7, 4 * GIB, 2 * GIB + 4096)]
}

fn source(recorder: Recorder, mode: DirtyLogMode) -> KvmDirtyLog {
    KvmDirtyLog::with_calls(Box::new(recorder), layout(), &slots(), mode).unwrap()
}

#[test]
fn pages_of_each_slot_land_where_the_layout_has_them() {
    let made = Arc::default();
    let recorder = Recorder {
        made: Arc::clone(&made),
        log: vec![(0, vec![0b10]), (7, vec![0, 1 << 63])],
    };
    let mut source = source(recorder, DirtyLogMode::GetAndClear);
    let bitmap = DirtyBitmap::new(layout().page_count());
    source.harvest(&bitmap).unwrap();
    let gib_pages = GIB / PAGE_BYTES;
    let runs: Vec<_> = bitmap.iter_runs().map(|run| run.start).collect();
    assert_eq!(runs, [PageIndex(1), PageIndex(gib_pages + 127)]);
    assert_eq!(*made.lock().unwrap(), ["get 0", "get 7"]);
}

#[test]
fn manual_protection_clears_multiples_of_64_pages_or_the_rest_of_the_slot() {
    let made = Arc::default();
    let words = usize::try_from((2 * GIB / PAGE_BYTES).div_ceil(64) + 1).unwrap();
    let mut log = vec![0; words];
    log[0] = 3;
    log[words - 1] = 1;
    let recorder = Recorder {
        made: Arc::clone(&made),
        log: vec![(7, log)],
    };
    let mut source = source(recorder, DirtyLogMode::ManualProtect);
    let bitmap = DirtyBitmap::new(layout().page_count());
    source.harvest(&bitmap).unwrap();
    assert_eq!(bitmap.count(), 3);
    // 524,289 pages: the middle is clean, and is not asked for.
    let expected = ["get 0", "get 7", "clear 7 0+262144 2", "clear 7 524288+1 1"];
    assert_eq!(*made.lock().unwrap(), expected);
}

#[test]
fn logging_is_switched_without_losing_other_flags() {
    let made = Arc::default();
    let recorder = Recorder {
        made: Arc::clone(&made),
        log: Vec::new(),
    };
    let mut source = source(recorder, DirtyLogMode::GetAndClear);
    source.start().unwrap();
    source.stop().unwrap();
    let expected = ["flags 0 3", "flags 7 3", "flags 0 2", "flags 7 2"];
    assert_eq!(*made.lock().unwrap(), expected);
}

#[test]
fn slots_outside_the_layout_are_refused() {
    for bad in [
        slot(0, 0, 0),
        slot(0, 1, 4096),
        slot(0, 0, 4095),
        slot(0, 2 * GIB, 4096),
        slot(0, GIB - 4096, 8192),
        slot(0, 6 * GIB, 8192),
    ] {
        let recorder = Box::new(Recorder::default());
        let mode = DirtyLogMode::GetAndClear;
        let made = KvmDirtyLog::with_calls(recorder, layout(), &[bad], mode);
        assert!(made.is_err(), "{bad:?} was accepted");
    }
}
