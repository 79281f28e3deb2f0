//! What a VMM says to a page handler.

use snapshot_format::limits::MAX_REGIONS;
use snapshot_format::{MemoryLayout, PAGE_BYTES};
use snapshot_memory::ServedRange;
use snapshot_memory::testing::read_handshake;

use super::input::Input;

/// Bytes of the memory that is asked for.
const IMAGE_BYTES: u64 = 1 << 20;

/// No address lies behind.
const MAX_ADDRESS: u64 = 1 << 56;

/// However it comes in parts, a message is understood in one way; what is accepted lies in the
/// image, page by page, and nothing of it twice; and regions that may be are accepted.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_handshake(bytes: &[u8]) {
    let Ok(layout) = MemoryLayout::single(IMAGE_BYTES) else {
        return;
    };
    let mut input = Input::new(bytes);
    let cut = input.number();
    // The bytes as they are, and as an array that they fill.
    check(bytes, cut, &layout);
    check(&[b"[", bytes, b"]"].concat(), cut, &layout);
    let regions = Region::some(&mut input);
    let said: Vec<String> = regions.iter().map(Region::said).collect();
    let mut message = format!("[{}]", said.join(","));
    let accepted = check(message.as_bytes(), cut, &layout);
    assert_eq!(accepted, may_be(&regions).then(|| served(&regions)));
    // With what a peer may say afterwards, and with garbage in its middle.
    message.push_str("\"bye\"\n");
    assert_eq!(check(message.as_bytes(), cut, &layout), accepted);
    let mut damaged = message.into_bytes();
    let at = usize::try_from(input.below(damaged.len() as u64)).unwrap_or(0);
    if let Some(byte) = damaged.get_mut(at) {
        *byte = input.byte();
    }
    check(&damaged, cut, &layout);
}

/// Where the memory is, if the message is one.
fn check(message: &[u8], cut: u64, layout: &MemoryLayout) -> Option<Vec<[u64; 3]>> {
    let whole = read_handshake([message], layout).map_err(|error| error.to_string());
    let cut = usize::try_from(cut).unwrap_or(0) % (message.len() + 1);
    let (first, second) = message.split_at(cut);
    let bytes = message.chunks(1);
    for again in [
        read_handshake([first, second], layout),
        read_handshake(bytes, layout),
    ] {
        let again = again.map_err(|error| error.to_string());
        assert_eq!(whole, again);
    }
    let (ranges, rest) = whole.ok()?;
    assert!(message.ends_with(&rest));
    assert!(!ranges.is_empty() && ranges.len() <= MAX_REGIONS);
    let taken: Vec<[u64; 3]> = ranges.iter().map(numbers).collect();
    for (at, [start, end, first]) in taken.iter().enumerate() {
        assert!(start < end && *end <= MAX_ADDRESS);
        assert!(start % PAGE_BYTES == 0 && end % PAGE_BYTES == 0);
        let pages = (end - start) / PAGE_BYTES;
        assert!(first + pages <= layout.page_count());
        for [other_start, other_end, other_first] in taken.iter().take(at) {
            let other_pages = (other_end - other_start) / PAGE_BYTES;
            assert!(end <= other_start || other_end <= start);
            assert!(first + pages <= *other_first || other_first + other_pages <= *first);
        }
    }
    Some(taken)
}

fn numbers(range: &ServedRange) -> [u64; 3] {
    [range.addresses.start, range.addresses.end, range.first.0]
}

/// A region as a VMM would send it.
#[derive(Clone, Copy, Debug)]
struct Region {
    base: u64,
    size: u64,
    offset: u64,
    page_size: Option<u64>,
}

impl Region {
    /// A few, of which most have something in common or nothing wrong.
    fn some(input: &mut Input<'_>) -> Vec<Self> {
        let count = input.below(5);
        let place = |input: &mut Input<'_>, near: u64, pages: u64| match input.byte() {
            0..=191 => near + input.below(pages) * PAGE_BYTES,
            192..=223 => near + input.number(),
            _ => input.word(),
        };
        let region = |_| Self {
            base: place(input, 1 << 40, 64),
            size: place(input, 0, 6),
            offset: place(input, 0, 64),
            page_size: match input.byte() {
                0..=127 => None,
                128..=247 => Some(PAGE_BYTES),
                _ => Some(input.number()),
            },
        };
        (0..count).map(region).collect()
    }

    fn said(&self) -> String {
        let Self {
            base, size, offset, ..
        } = self;
        let page_size = self.page_size.map(|size| format!(r#","page_size":{size}"#));
        format!(
            r#"{{"base_host_virt_addr":{base},"size":{size},"offset":{offset}{}}}"#,
            page_size.unwrap_or_default()
        )
    }

    fn is_sound(&self) -> bool {
        let pages = [self.base, self.size, self.offset];
        pages.iter().all(|part| part.is_multiple_of(PAGE_BYTES))
            && self.size > 0
            && self.page_size.is_none_or(|size| size == PAGE_BYTES)
            && u128::from(self.base) + u128::from(self.size) <= u128::from(MAX_ADDRESS)
            && u128::from(self.offset) + u128::from(self.size) <= u128::from(IMAGE_BYTES)
    }
}

/// Whether a handler can serve these.
fn may_be(regions: &[Region]) -> bool {
    let apart = |a: u64, b: u64, a_len: u64, b_len: u64| a + a_len <= b || b + b_len <= a;
    let all_apart = || {
        regions.iter().enumerate().all(|(at, one)| {
            regions.iter().take(at).all(|other| {
                apart(one.base, other.base, one.size, other.size)
                    && apart(one.offset, other.offset, one.size, other.size)
            })
        })
    };
    !regions.is_empty() && regions.iter().all(Region::is_sound) && all_apart()
}

fn served(regions: &[Region]) -> Vec<[u64; 3]> {
    let range = |region: &Region| {
        let end = region.base + region.size;
        [region.base, end, region.offset / PAGE_BYTES]
    };
    regions.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_input_makes_messages_of_both_sorts() {
        let mut random = crate::random::Random::new(7);
        let mut counts = [0; 2];
        for _ in 0..2000 {
            let words = (0..25).map(|_| random.next());
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            let mut input = Input::new(&bytes);
            let regions = Region::some(&mut input);
            counts[usize::from(may_be(&regions) && regions.len() > 1)] += 1;
            fuzz_handshake(&bytes);
        }
        assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    }
}
