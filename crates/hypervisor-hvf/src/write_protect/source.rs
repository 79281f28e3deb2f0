//! Write protection as a source of dirty pages.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{
    BlindSpot, BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource,
};

use super::stripe::{GRANULE_BYTES, STRIPE_BYTES, Stripe};
use crate::error::HvfError;
use crate::hv::{Hv, Protection};
use crate::refusal::HvRefusal;

const NAME: &str = "hvf-wp";

/// How memory is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WriteProtectOptions {
    /// What the guest may do with its memory when nothing is recorded.
    pub protection: Protection,
    /// At how many harvests in a row a block of 2 MiB must be dirty to be protected in granules of
    /// 16 KiB from then on; 0: all blocks are, from the start.
    ///
    /// A block costs one fault for each round, and counts as dirty as a whole. Granules cost a
    /// fault each.
    pub split_after: u32,
}

impl Default for WriteProtectOptions {
    fn default() -> Self {
        Self {
            protection: Protection::ALL,
            split_after: 2,
        }
    }
}

/// The writes of all vCPUs to memory that `hv_vm_protect` made read-only.
///
/// It sees no write of the VMM or of another process: add their sources to the tracker. vCPU
/// threads hand their faults to [`WriteFaults`]. A harvest may run while vCPUs do.
pub struct WriteProtect {
    shared: Arc<Shared>,
}

/// What vCPU threads ask about a fault. Clones are of the same source.
#[derive(Clone)]
pub struct WriteFaults {
    shared: Arc<Shared>,
}

struct Shared {
    hv: Arc<dyn Hv>,
    layout: MemoryLayout,
    options: WriteProtectOptions,
    stripes: Vec<Placed>,
    faults: AtomicU64,
}

/// A stripe, and where it is.
struct Placed {
    /// Guest physical address of its first byte.
    start: u64,
    /// Its length: that of all but the last one of a region is [`STRIPE_BYTES`].
    len_bytes: u64,
    /// Its first page in the image.
    first_page: u64,
    state: Mutex<Stripe>,
}

impl WriteProtect {
    /// A source for the memory of `layout`, and what vCPU threads hand their faults to.
    ///
    /// Each region was mapped by one `hv_vm_map`, in pages of 16 KiB.
    pub fn new(
        hv: Arc<dyn Hv>,
        layout: MemoryLayout,
        options: WriteProtectOptions,
    ) -> Result<(Self, WriteFaults), HvfError> {
        let mut stripes = Vec::new();
        let mut first_page = 0;
        for region in layout.regions() {
            let (start, len_bytes) = (region.start.0, region.len_bytes);
            if !start.is_multiple_of(GRANULE_BYTES) || !len_bytes.is_multiple_of(GRANULE_BYTES) {
                return Err(HvfError::Region {
                    start,
                    len_bytes,
                    granule_bytes: GRANULE_BYTES,
                });
            }
            let mut at = 0;
            while at < len_bytes {
                let len = STRIPE_BYTES.min(len_bytes - at);
                stripes.push(Placed {
                    start: start + at,
                    len_bytes: len,
                    first_page: first_page + at / PAGE_BYTES,
                    state: Mutex::default(),
                });
                at += len;
            }
            first_page += len_bytes / PAGE_BYTES;
        }
        let shared = Arc::new(Shared {
            hv,
            layout,
            options,
            stripes,
            faults: AtomicU64::new(0),
        });
        let faults = WriteFaults {
            shared: shared.clone(),
        };
        Ok((Self { shared }, faults))
    }
}

impl WriteFaults {
    /// Answers the fault of a write: `true` if the vCPU can run on, and must do the same
    /// instruction again, `false` if there is no memory at `address`, so that it is a device's.
    ///
    /// The pages are marked before they are made writable.
    pub fn grant(&self, address: u64) -> Result<bool, HvRefusal> {
        let shared = &*self.shared;
        let Some(placed) = shared.placed(address) else {
            return Ok(false);
        };
        let mut stripe = placed.lock();
        let offset = address - placed.start;
        // Also where the same bytes were opened a moment ago, by another vCPU's fault: whatever
        // took the right away from there, this vCPU goes on.
        let bytes = stripe.open(offset);
        if let Err(refusal) = shared.protect(placed, &bytes, shared.options.protection) {
            // What the guest may write there now is not known.
            stripe.open_block(offset);
            return Err(refusal);
        }
        if stripe.is_on {
            shared.faults.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// How many faults there were since the source was made.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// How many blocks of 2 MiB are protected in granules of 16 KiB.
    #[must_use]
    pub fn split_blocks(&self) -> usize {
        let stripes = self.shared.stripes.iter();
        stripes.map(|placed| placed.lock().split_count()).sum()
    }
}

impl Shared {
    /// The stripe that an address is in.
    fn placed(&self, address: u64) -> Option<&Placed> {
        let after = self.stripes.partition_point(|p| p.start <= address);
        let placed = self.stripes.get(after.checked_sub(1)?)?;
        (address - placed.start < placed.len_bytes).then_some(placed)
    }

    fn protect(&self, at: &Placed, bytes: &Range<u64>, to: Protection) -> Result<(), HvRefusal> {
        let bytes = at.clip(bytes);
        let len = bytes.end - bytes.start;
        self.hv.protect(at.start + bytes.start, len, to)
    }

    fn set_recording(&self, on: bool) -> Result<(), HvRefusal> {
        let WriteProtectOptions {
            protection,
            split_after,
        } = self.options;
        for placed in &self.stripes {
            // A fault that comes in between waits, and then sees what holds afterwards.
            let mut stripe = placed.lock();
            let (to, state) = if on {
                let state = Stripe::recording(placed.len_bytes, split_after == 0);
                (protection.without_write(), state)
            } else {
                (protection, Stripe::default())
            };
            self.protect(placed, &(0..placed.len_bytes), to)?;
            *stripe = state;
        }
        Ok(())
    }

    /// Moves what is dirty in one stripe to `into`, and protects it again.
    fn harvest(&self, placed: &Placed, into: &DirtyBitmap) -> Result<(), HvRefusal> {
        let mut stripe = placed.lock();
        if !stripe.is_on {
            return Ok(());
        }
        for bytes in stripe.dirty() {
            let bytes = placed.clip(&bytes);
            let first = placed.first_page + bytes.start / PAGE_BYTES;
            let count = (bytes.end - bytes.start) / PAGE_BYTES;
            into.set_range(PageRange::new(first, count));
        }
        stripe.cool();
        let read_only = self.options.protection.without_write();
        for bytes in stripe.to_close() {
            // What cannot be protected stays open, and is in the next harvest, too.
            self.protect(placed, &bytes, read_only)?;
            stripe.close(bytes, self.options.split_after);
        }
        Ok(())
    }
}

impl Placed {
    /// The part of `bytes` that there is.
    fn clip(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start.min(self.len_bytes)..bytes.end.min(self.len_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Stripe> {
        // Each change of a stripe is whole before anything that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirtySource for WriteProtect {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Blocks count as dirty as a whole, and a store that fails its condition faults as others do.
    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Superset
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vcpus])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.shared.layout
    }

    fn granule_bytes(&self) -> u64 {
        GRANULE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        self.shared.set_recording(true).map_err(|refusal| {
            // Best effort: a page that stays protected is made writable by its next fault.
            let undone = self.shared.set_recording(false);
            tracing::warn!(%refusal, ?undone, "memory cannot be protected");
            failed(refusal)
        })
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let mut stripes = self.shared.stripes.iter();
        let harvested = stripes.try_for_each(|placed| self.shared.harvest(placed, into));
        harvested.map_err(failed)
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        self.shared.set_recording(false).map_err(failed)
    }
}

impl fmt::Debug for WriteProtect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_shared(&self.shared, "WriteProtect", f)
    }
}

impl fmt::Debug for WriteFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_shared(&self.shared, "WriteFaults", f)
    }
}

fn fmt_shared(shared: &Shared, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.debug_struct(name)
        .field("options", &shared.options)
        .field("stripes", &shared.stripes.len())
        .finish_non_exhaustive()
}

fn failed(refusal: HvRefusal) -> DirtyError {
    DirtyError::System {
        name: NAME,
        call: "hv_vm_protect",
        source: std::io::Error::other(refusal),
    }
}
