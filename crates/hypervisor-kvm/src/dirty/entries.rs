//! One dirty ring, as the kernel and this process share it.

// UNSAFETY: the mapping of a ring, and the view of it as atomic entries.
#![expect(
    unsafe_code,
    reason = "maps memory that the kernel writes, and hands out a view of it"
)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// An entry: what `struct kvm_dirty_gfn` is, with fields that both sides may touch at any time.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) flags: AtomicU32,
    pub(super) slot: AtomicU32,
    pub(super) offset: AtomicU64,
}

const _: () = assert!(size_of::<Entry>() == size_of::<kvm_dirty_gfn>());

/// Set by the kernel: the entry names a page.
pub(super) const DIRTY: u32 = 1;

/// Set by this process: the entry was taken, and the kernel may protect its page and reuse it.
pub(super) const RESET: u32 = 2;

/// The entries of one ring, wherever they are.
pub(super) trait Entries: Send {
    fn entries(&self) -> &[Entry];
}

/// The ring of one vCPU, and how far it was taken.
pub(super) struct Ring {
    entries: Box<dyn Entries>,
    next: usize,
}

/// A page that a ring names: slot and offset in pages, neither of them checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) slot: u32,
    pub(super) offset: u64,
}

/// Flags that no kernel sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadFlags(pub(super) u32);

impl Ring {
    pub(super) fn new(entries: Box<dyn Entries>) -> Self {
        Self { entries, next: 0 }
    }

    /// Takes the entries that were written since the last time, in order, and gives how many.
    ///
    /// Each is given to `each` before the kernel is told that it was taken.
    pub(super) fn take(&mut self, mut each: impl FnMut(Named)) -> Result<usize, BadFlags> {
        let entries = self.entries.entries();
        let mut taken = 0;
        // Not more than there are: the kernel may go on writing.
        while taken < entries.len() {
            let Some(entry) = entries.get(self.next) else {
                break;
            };
            // Slot and offset were written before the flags.
            match entry.flags.load(Ordering::Acquire) {
                DIRTY => {}
                // Not written yet; or taken before and not reset, once around.
                flags if flags & !(DIRTY | RESET) == 0 => break,
                flags => return Err(BadFlags(flags)),
            }
            each(Named {
                slot: entry.slot.load(Ordering::Relaxed),
                offset: entry.offset.load(Ordering::Relaxed),
            });
            entry.flags.store(RESET, Ordering::Release);
            self.next = (self.next + 1) % entries.len();
            taken += 1;
        }
        Ok(taken)
    }
}

/// The mapping of a ring.
pub(super) struct Mapping {
    address: NonNull<Entry>,
    len_bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value and is bound to no thread; its entries are atomic.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the ring of `count` entries of a vCPU.
    pub(super) fn new(vcpu: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        let len_bytes = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size_of::<Entry>()))
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let offset = page_bytes()? * i64::from(KVM_DIRTY_LOG_PAGE_OFFSET);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping where the kernel likes; it replaces nothing.
        let address = unsafe { mmap(None, len_bytes, access, MapFlags::MAP_SHARED, vcpu, offset) }?;
        Ok(Self {
            address: address.cast(),
            len_bytes,
        })
    }
}

impl Entries for Mapping {
    fn entries(&self) -> &[Entry] {
        let count = self.len_bytes.get() / size_of::<Entry>();
        // SAFETY:
        // - the mapping is that long, page-aligned, and lives as long as `self`;
        // - entries are atomics, for which any bytes are a value, and the kernel may change them.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing that was borrowed from `self` is left.
        let unmapped = unsafe { munmap(self.address.cast(), self.len_bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// The host's page: what `KVM_DIRTY_LOG_PAGE_OFFSET` counts in.
pub(super) fn page_bytes() -> io::Result<i64> {
    // SAFETY: the call takes a number and gives one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if bytes <= 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}
