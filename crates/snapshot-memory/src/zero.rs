//! Whether bytes are all zero.

/// Zero pages, to copy from.
#[cfg(target_os = "linux")]
pub(crate) static ZERO_PAGES: &[u8] = &[0; 64 << 10];

/// Bytes looked at in one go: a few vector registers.
const STEP_BYTES: usize = 128;

/// Whether every byte is zero; stops at the first piece that is not.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (steps, rest) = bytes.as_chunks::<STEP_BYTES>();
    steps.iter().all(|step| any_bit(step) == 0) && any_bit(rest) == 0
}

/// The bits that any byte has. Without a branch, so that it becomes vector code.
fn any_bit(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |bits, byte| bits | byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_seen() {
        for len in [0, 1, 127, 128, 129, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1 << (at % 8);
                assert!(!is_zero(&bytes), "bit in byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
