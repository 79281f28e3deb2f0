//! Every byte of a memory or an image, against the array.

use snapshot_format::{PAGE_BYTES, PageRange};
use tinyvm::Replay;

/// Pages that are compared at a time: 256 KiB.
const CHUNK_PAGES: u64 = 64;

/// Pages that a difference names.
const NAMED: usize = 8;

/// Compares all of `replay` with what `read` gives. The error names the first pages that differ.
pub(crate) fn compare<E: std::fmt::Display>(
    what: &str,
    replay: &Replay,
    mut read: impl FnMut(PageRange, &mut [u8]) -> Result<(), E>,
) -> Result<(), String> {
    let mut different = Vec::new();
    let page_bytes = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let chunk_bytes = page_bytes.saturating_mul(usize::try_from(CHUNK_PAGES).unwrap_or(1));
    let mut found = vec![0; chunk_bytes];
    for (first, expected) in (0..)
        .step_by(usize::try_from(CHUNK_PAGES).unwrap_or(1))
        .zip(replay.bytes().chunks(chunk_bytes))
    {
        let pages = PageRange::new(first, expected.len() as u64 / PAGE_BYTES);
        let found = found.get_mut(..expected.len()).unwrap_or_default();
        read(pages, found).map_err(|error| format!("{what}: {error}"))?;
        if found == expected {
            continue;
        }
        let both = found.chunks(page_bytes).zip(expected.chunks(page_bytes));
        let wrong = (first..).zip(both).filter(|(_, (one, other))| one != other);
        different.extend(wrong.map(|(page, (one, other))| tell(page, one, other)));
    }
    if different.is_empty() {
        return Ok(());
    }
    let count = different.len();
    different.truncate(NAMED);
    Err(format!(
        "{what}: {count} pages differ: {}",
        different.join("; ")
    ))
}

/// Where a page differs first.
fn tell(page: u64, found: &[u8], expected: &[u8]) -> String {
    let at = found
        .iter()
        .zip(expected)
        .position(|(one, other)| one != other);
    let at = at.unwrap_or_default();
    // As the bytes lie, eight at most.
    let show = |bytes: &[u8]| {
        let mut word = [0; 8];
        let rest = bytes.get(at..).unwrap_or_default();
        word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        format!("{:016x}", u64::from_le_bytes(word).swap_bytes())
    };
    format!(
        "page {page} at {at:#x} is {} and not {}",
        show(found),
        show(expected)
    )
}

#[cfg(test)]
mod tests {
    use tinyvm::GuestConfig;

    use super::*;

    #[test]
    fn one_wrong_byte_in_any_page_is_found_and_named() {
        let config = GuestConfig {
            memory_bytes: 2 << 20,
            ..GuestConfig::default()
        };
        let replay = Replay::new(&config).unwrap();
        let bytes = |pages: PageRange| {
            let from = usize::try_from(pages.start.0 * PAGE_BYTES).unwrap();
            from..from + usize::try_from(pages.count * PAGE_BYTES).unwrap()
        };
        let read = |pages, out: &mut [u8]| {
            out.copy_from_slice(&replay.bytes()[bytes(pages)]);
            Ok::<(), String>(())
        };
        compare("memory", &replay, read).unwrap();
        for page in [0, 63, 64, 511] {
            let spoilt = |pages: PageRange, out: &mut [u8]| {
                read(pages, out)?;
                if (pages.start.0..pages.end().0).contains(&page) {
                    let at = usize::try_from((page - pages.start.0) * PAGE_BYTES).unwrap();
                    out[at + 9] ^= 1;
                }
                Ok::<(), String>(())
            };
            let told = compare("memory", &replay, spoilt).unwrap_err();
            assert!(told.starts_with(&format!("memory: 1 pages differ: page {page} at 0x9")));
        }
    }
}
