use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageIndex, PageRange};

use super::*;
use crate::dirty::{BlindSpot, BlindSpots, DirtyGuarantee, DirtySource, VmmWrites, WriteMarker};
use crate::error::{DirtyError, MemoryError};
use crate::mapping::{MappedMemory, MappingKind, MappingOptions};
use crate::source::{GuestMemorySource, HostRun};
use crate::uffd::{WpAsyncMemory, WpAsyncSource};

fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

/// No region is a multiple of 64 pages; there is a hole between them.
fn first_layout() -> MemoryLayout {
    layout(&[(0, 700), (1000, 130)])
}

/// Plugs behind a hole, unplugs, plugs again, grows, shrinks, and moves.
fn other_layouts() -> Vec<MemoryLayout> {
    vec![
        layout(&[(0, 700), (1000, 130), (1500, 65)]),
        layout(&[(0, 700), (1500, 65)]),
        layout(&[(0, 700), (1000, 130), (1500, 65)]),
        layout(&[(0, 900), (1000, 130)]),
        layout(&[(3, 200), (1000, 1), (1003, 127)]),
        layout(&[(100, 700), (1100, 130)]),
    ]
}

/// Memory of any layout below guest page 2048, always at the same addresses of this process.
struct Windows {
    layout: MemoryLayout,
    pool: Arc<MappedMemory>,
}

impl GuestMemorySource for Windows {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, _: PageRange, _: &mut [u8]) -> Result<(), MemoryError> {
        unreachable!("a dirty source does not read")
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        let (guest, run) = self.layout.runs(pages).next()?;
        self.pool.host_run(PageRange::new(guest.0, run.count))
    }
}

fn pool(kind: MappingKind) -> Arc<MappedMemory> {
    let layout = MemoryLayout::single(2048 * PAGE_BYTES).unwrap();
    let options = MappingOptions::default().kind(kind);
    Arc::new(MappedMemory::new(layout, options).unwrap())
}

/// Lets `write` write on another thread while `harvest` runs here.
fn write_during(pages: &[PageIndex], write: impl Fn(PageIndex) + Sync, harvest: &mut dyn FnMut()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pages.iter().for_each(|page| write(*page));
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            harvest();
        }
    });
}

/// A process that writes to its own memory.
struct WpRig {
    layout: MemoryLayout,
    pool: Arc<MappedMemory>,
    handle: Option<WpAsyncMemory>,
}

impl WpRig {
    fn windows(&self) -> Arc<Windows> {
        Arc::new(Windows {
            layout: self.layout.clone(),
            pool: self.pool.clone(),
        })
    }

    fn write_to(&self, page: PageIndex, byte: usize) {
        let guest = self.layout.guest_page(page).unwrap();
        self.pool
            .write(guest.0 * PAGE_BYTES + byte as u64, &[1])
            .unwrap();
    }
}

impl DirtyRig for WpRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let source = WpAsyncSource::new(self.windows()).unwrap();
        self.handle = Some(source.handle());
        Box::new(source)
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        self.write_to(page, byte);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        write_during(pages, |page| self.write_to(page, 7), harvest);
    }

    fn layouts(&self) -> Vec<MemoryLayout> {
        other_layouts()
    }

    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.layout = layout.clone();
        self.handle.as_ref().unwrap().replace(self.windows());
        Ok(())
    }
}

// spec: DRT-06
// spec: SRC-11
#[test]
fn asynchronous_write_protection_conforms() {
    for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
        let mut rig = WpRig {
            layout: first_layout(),
            pool: pool(kind),
            handle: None,
        };
        match WpAsyncSource::new(rig.windows()) {
            Ok(_) => dirty_source_suite(&mut rig),
            Err(error) => crate::skip::skip("uffd", &error.to_string()),
        }
    }
}

/// A VMM that marks what it writes.
#[derive(Default)]
struct VmmRig {
    layout: Option<MemoryLayout>,
    marker: Option<WriteMarker>,
}

impl VmmRig {
    fn mark(&self, page: PageIndex, byte: usize) {
        let layout = self.layout.as_ref().unwrap();
        let start = layout.guest_page(page).unwrap().address().unwrap();
        let marker = self.marker.as_ref().unwrap();
        marker.mark_bytes(GuestAddress(start.0 + byte as u64), 1);
    }
}

impl DirtyRig for VmmRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let layout = self.layout.get_or_insert_with(first_layout).clone();
        let (source, marker) = VmmWrites::new(layout);
        self.marker = Some(marker);
        Box::new(source)
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        self.mark(page, byte);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        write_during(pages, |page| self.mark(page, 7), harvest);
    }

    fn layouts(&self) -> Vec<MemoryLayout> {
        other_layouts()
    }

    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.layout = Some(layout.clone());
        Ok(())
    }
}

// spec: DRT-06
#[test]
fn the_vmm_s_own_writes_conform() {
    dirty_source_suite(&mut VmmRig::default());
}

/// How a source is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// None: it conforms.
    Sound,
    /// It loses the write to the last page.
    Loses,
    /// It names a page more.
    Invents,
    /// It does not clear what it gave.
    Keeps,
    /// It replaces what is in the bitmap.
    Overwrites,
    /// It clears before it looks: what is written in between is lost.
    ClearsLate,
    /// It tells of no failure.
    Silent,
    /// It keeps to the pages of the old layout.
    Stays,
    /// It sees nobody.
    Blind,
}

/// A source of granules of 4 pages over a set of guest pages.
struct Model {
    fault: Fault,
    layout: MemoryLayout,
    written: Arc<RwLock<Written>>,
}

#[derive(Default)]
struct Written {
    /// By guest page; the value counts writes.
    pages: BTreeMap<u64, u64>,
    fails: bool,
}

const GRANULE: u64 = 4;

impl DirtySource for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        match self.fault {
            Fault::Blind => BlindSpots::ALL,
            _ => BlindSpots::all_but(&[BlindSpot::Vcpus]),
        }
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        GRANULE * PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let mut written = self.written.write().unwrap();
        if std::mem::take(&mut written.fails) && self.fault != Fault::Silent {
            return Err(DirtyError::FixedLayout { name: "model" });
        }
        let pages = written.pages.clone();
        if self.fault == Fault::ClearsLate {
            drop(written);
            thread::sleep(Duration::from_millis(1));
            written = self.written.write().unwrap();
        }
        if self.fault != Fault::Keeps {
            written.pages.clear();
        }
        if self.fault == Fault::Overwrites {
            drop(into.take());
        }
        for page in pages.keys() {
            let first = page / GRANULE * GRANULE;
            let granule = (first..first + GRANULE).map(snapshot_format::GuestPage);
            let named = granule.filter_map(|page| self.layout.image_page(page));
            let last = PageIndex(self.layout.page_count() - 1);
            named
                .filter(|page| self.fault != Fault::Loses || *page != last)
                .for_each(|page| into.set(page));
            if self.fault == Fault::Invents {
                into.set(PageIndex(299));
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn change_layout(&mut self, layout: &MemoryLayout, _: &DirtyBitmap) -> Result<(), DirtyError> {
        if self.fault != Fault::Stays {
            self.layout = layout.clone();
        }
        Ok(())
    }
}

struct ModelRig {
    fault: Fault,
    layout: MemoryLayout,
    written: Arc<RwLock<Written>>,
}

impl ModelRig {
    fn write_to(&self, page: PageIndex) {
        let guest = self.layout.guest_page(page).unwrap();
        let mut written = self.written.write().unwrap();
        *written.pages.entry(guest.0).or_default() += 1;
    }
}

impl DirtyRig for ModelRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        Box::new(Model {
            fault: self.fault,
            layout: self.layout.clone(),
            written: self.written.clone(),
        })
    }

    fn write(&mut self, page: PageIndex, _: usize) {
        self.write_to(page);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        // Slower than a harvest, so that some writes fall into every one.
        let write = |page| {
            self.write_to(page);
            thread::sleep(Duration::from_micros(10));
        };
        write_during(pages, write, harvest);
    }

    fn break_next_harvest(&mut self) -> bool {
        self.written.write().unwrap().fails = true;
        true
    }

    fn layouts(&self) -> Vec<MemoryLayout> {
        other_layouts()
    }

    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.layout = layout.clone();
        Ok(())
    }
}

// spec: SRC-01
#[test]
fn the_suite_accepts_a_sound_source_and_catches_every_fault() {
    let passes = |fault| {
        let mut rig = ModelRig {
            fault,
            layout: first_layout(),
            written: Arc::default(),
        };
        let run = std::panic::AssertUnwindSafe(|| dirty_source_suite(&mut rig));
        std::panic::catch_unwind(run).is_ok()
    };
    assert!(passes(Fault::Sound));
    for fault in [
        Fault::Loses,
        Fault::Invents,
        Fault::Keeps,
        Fault::Overwrites,
        Fault::ClearsLate,
        Fault::Silent,
        Fault::Stays,
        Fault::Blind,
    ] {
        assert!(!passes(fault), "{fault:?} is not caught");
    }
}
