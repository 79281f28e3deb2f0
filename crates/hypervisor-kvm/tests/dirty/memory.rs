//! What the memory of a machine is made of, and how it was brought back.

// UNSAFETY: a private mapping of a file of this test, and pointers into pools.
#![expect(unsafe_code, reason = "the tests vouch for mappings that they made")]

use std::any::Any;
use std::io::Write;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapOptions;
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{
    GuestMemorySource, HostRun, MappedMemory, MappingKind, MappingOptions, MemoryError,
};

/// Guest pages that a machine may have: each lies at its own place of one mapping.
pub(super) const POOL_PAGES: u64 = 2048;

const PROGRAM: [u8; 5] = [
    0x26, 0x88, 0x07, // mov es:[bx], al
    0xe6, 0x10, //       out 0x10, al
];

/// What memory is made of, and how it was filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    /// Private anonymous memory, never touched.
    Fresh,
    /// Private anonymous memory that a restore copied every page to.
    Copied,
    /// The same on huge pages.
    HugeCopied,
    /// A memfd that other processes may map, that a restore copied every page to.
    SharedCopied,
    /// A private mapping of the memory file of a snapshot.
    FilePrivate,
}

impl Backing {
    pub(super) const EVERY: [Self; 5] = [
        Self::Fresh,
        Self::Copied,
        Self::HugeCopied,
        Self::SharedCopied,
        Self::FilePrivate,
    ];
}

/// Room for every page that a machine may have, and for the program behind them.
pub(super) struct Pool {
    base: NonNull<u8>,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the pool owns its mapping, and is reached by vCPUs and by the kernel only.
unsafe impl Send for Pool {}

// SAFETY: as for Send.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn new(backing: Backing) -> Self {
        let mut content = vec![0xee; bytes(POOL_PAGES)];
        content.extend(PROGRAM);
        content.resize(bytes(POOL_PAGES + 1), 0);
        if backing == Backing::FilePrivate {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            // SAFETY: nobody else has the file, which has no name.
            let mut mapping = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
            return Self {
                base: NonNull::new(mapping.as_mut_ptr()).unwrap(),
                _owner: Box::new(mapping),
            };
        }
        let kind = match backing {
            Backing::SharedCopied => MappingKind::Memfd,
            _ => MappingKind::Anonymous,
        };
        let layout = MemoryLayout::single((POOL_PAGES + 1) * PAGE_BYTES).unwrap();
        let options = MappingOptions::default().kind(kind);
        let options = options.huge_pages(backing == Backing::HugeCopied);
        let mapping = MappedMemory::new(layout, options).unwrap();
        let from = if backing == Backing::Fresh {
            bytes(POOL_PAGES)
        } else {
            0
        };
        mapping.write(from as u64, &content[from..]).unwrap();
        Self {
            base: mapping.base(),
            _owner: Box::new(mapping),
        }
    }

    /// Where a guest page is mapped.
    pub(super) fn address(&self, page: u64) -> u64 {
        assert!(page <= POOL_PAGES, "the pool has no page {page}");
        self.base.as_ptr() as u64 + page * PAGE_BYTES
    }
}

/// The memory of a machine at one time.
pub(super) struct View {
    pub(super) layout: MemoryLayout,
    pub(super) pool: Arc<Pool>,
}

impl GuestMemorySource for View {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        let (mut next, mut done) = (pages, 0);
        while let Some(run) = self.host_run(next) {
            let len = run.len_bytes();
            run.copy_to(0, &mut out[done..done + len]);
            done += len;
            let count = len as u64 / PAGE_BYTES;
            next = PageRange::new(next.start.0 + count, next.count - count);
        }
        Ok(())
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        let (guest, run) = self.layout.runs(pages).next()?;
        let address = self.pool.base.as_ptr().wrapping_add(bytes(guest.0));
        // SAFETY: every page of a layout lies in the pool, which lives as long as `self`.
        Some(unsafe { HostRun::new(address, bytes(run.count)) })
    }
}

fn bytes(pages: u64) -> usize {
    usize::try_from(pages * PAGE_BYTES).unwrap()
}
