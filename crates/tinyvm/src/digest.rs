//! The digest of guest memory, and the one thing in it that is a machine's own.

use hypervisor_bridge::GenerationId;
use snapshot_format::{Digest, PAGE_BYTES, PageRange};
use snapshot_memory::{GuestMemorySource, MemoryError};

use crate::purpose::GENERATION_ADDRESS;

/// Pages that are hashed at a time: 1 MiB.
const CHUNK_PAGES: u64 = 256;

/// BLAKE3 of the raw image of `memory`, whose generation id counts as zero: a clone has another one
/// than the machine that it is a clone of, and nothing else.
pub(crate) fn digest_of(memory: &dyn GuestMemorySource) -> Result<Digest, MemoryError> {
    let page_count = memory.layout().page_count();
    let mut hasher = blake3::Hasher::new();
    let mut first = 0;
    while first < page_count {
        let pages = PageRange::new(first, CHUNK_PAGES.min(page_count - first));
        let len = usize::try_from(pages.count * PAGE_BYTES).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        memory.read_pages(pages, &mut bytes)?;
        if let Some(id) = id_within(first, &mut bytes) {
            id.fill(0);
        }
        hasher.update(&bytes);
        first += pages.count;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// The generation id in `memory`: zero until it is a clone's.
pub(crate) fn generation_of(memory: &dyn GuestMemorySource) -> Result<GenerationId, MemoryError> {
    let page = GENERATION_ADDRESS.page().0;
    let mut bytes = vec![0; usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX)];
    memory.read_pages(PageRange::new(page, 1), &mut bytes)?;
    let id = id_within(page, &mut bytes).and_then(|id| <[u8; 16]>::try_from(&*id).ok());
    Ok(GenerationId(id.unwrap_or_default()))
}

/// The generation id in the bytes of pages from `first` on. Memory is one region from address 0.
fn id_within(first: u64, bytes: &mut [u8]) -> Option<&mut [u8]> {
    let at = GENERATION_ADDRESS.0.checked_sub(first * PAGE_BYTES)?;
    let at = usize::try_from(at).ok()?;
    bytes.get_mut(at..at.checked_add(16)?)
}
