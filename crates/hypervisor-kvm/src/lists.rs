//! Kernel structures that are a count followed by entries.

use std::mem::size_of;

use crate::ioctl::{KernelStruct, bytes_of, bytes_of_mut};

/// The bytes of a structure: a header of `header_bytes` that begins with the count, then `entries`.
pub(crate) fn encode_list<T: KernelStruct>(header_bytes: usize, entries: &[T]) -> Vec<u8> {
    let mut bytes = vec![0; header_bytes];
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    for (target, source) in bytes.iter_mut().zip(bytes_of(&count)) {
        *target = *source;
    }
    bytes.extend(entries.iter().flat_map(bytes_of));
    bytes
}

/// The entries of such a structure: as many as its count says, or as its bytes hold.
pub(crate) fn decode_list<T: KernelStruct>(header_bytes: usize, bytes: &[u8]) -> Vec<T> {
    let count = usize::try_from(read::<u32>(bytes, 0)).unwrap_or(usize::MAX);
    let entries = bytes.get(header_bytes..).unwrap_or_default();
    entries
        .chunks_exact(size_of::<T>())
        .take(count)
        .map(|entry| read(entry, 0))
        .collect()
}

/// The value at `offset`; bytes that are not there read as zero.
pub(crate) fn read<T: KernelStruct>(bytes: &[u8], offset: usize) -> T {
    let mut value = T::default();
    let source = bytes.get(offset..).unwrap_or_default();
    for (target, source) in bytes_of_mut(&mut value).iter_mut().zip(source) {
        *target = *source;
    }
    value
}

/// Writes `value` at `offset`; what does not fit is cut off.
pub(crate) fn write<T: KernelStruct>(bytes: &mut [u8], offset: usize, value: &T) {
    let target = bytes.get_mut(offset..).unwrap_or_default();
    for (target, source) in target.iter_mut().zip(bytes_of(value)) {
        *target = *source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_its_bytes() {
        let bytes = encode_list(8, &[1_u64, 2]);
        assert_eq!(bytes.len(), 24);
        assert_eq!(decode_list::<u64>(8, &bytes), [1, 2]);
    }

    #[test]
    fn a_count_beyond_the_bytes_reads_what_is_there() {
        let mut bytes = encode_list(8, &[1_u64]);
        write(&mut bytes, 0, &u32::MAX);
        assert_eq!(decode_list::<u64>(8, &bytes), [1]);
    }
}
