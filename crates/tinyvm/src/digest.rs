//! The digest of guest memory.

use snapshot_format::{Digest, PAGE_BYTES, PageRange};
use snapshot_memory::{GuestMemorySource, MemoryError};

/// Pages that are hashed at a time: 1 MiB.
const CHUNK_PAGES: u64 = 256;

/// BLAKE3 of the raw image of `memory`.
pub(crate) fn digest_of(memory: &dyn GuestMemorySource) -> Result<Digest, MemoryError> {
    let page_count = memory.layout().page_count();
    let mut hasher = blake3::Hasher::new();
    let mut first = 0;
    while first < page_count {
        let pages = PageRange::new(first, CHUNK_PAGES.min(page_count - first));
        let len = usize::try_from(pages.count * PAGE_BYTES).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        memory.read_pages(pages, &mut bytes)?;
        hasher.update(&bytes);
        first += pages.count;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}
