//! State that only the hypervisor understands: bytes whose length may differ from host to host.

use std::fmt::LowerHex;

use serde::{Serialize, Serializer};

/// Bytes of state that do not fit the host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ByteStateError {
    /// The saved bytes end before what every host has.
    #[error("{stored} bytes of saved state, and no host has less than {least}")]
    Short {
        /// Bytes saved.
        stored: usize,
        /// Bytes that every host has.
        least: usize,
    },
    /// The saved bytes are longer than what the host takes, and the rest holds something.
    #[error(
        "{stored} bytes of saved state do not fit the {wanted} bytes that this host takes: byte \
         {first_lost} is not zero"
    )]
    Lost {
        /// Bytes saved.
        stored: usize,
        /// Bytes that the host takes.
        wanted: usize,
        /// The first byte beyond them that is not zero.
        first_lost: usize,
    },
}

/// `stored` as exactly `wanted` bytes: a shorter one is padded with zeros, a longer one is accepted
/// only if everything beyond `wanted` is zero.
///
/// Hosts differ in the size of XSAVE and nested state; a zero byte there is a component in its
/// initial state, so that neither way loses anything.
pub fn fit_bytes(stored: &[u8], wanted: usize) -> Result<Vec<u8>, ByteStateError> {
    let kept = stored.len().min(wanted);
    let (head, tail) = stored.split_at(kept);
    if let Some(beyond) = tail.iter().position(|&byte| byte != 0) {
        return Err(ByteStateError::Lost {
            stored: stored.len(),
            wanted,
            first_lost: kept + beyond,
        });
    }
    let mut fitted = vec![0; wanted];
    if let Some(target) = fitted.get_mut(..kept) {
        target.copy_from_slice(head);
    }
    Ok(fitted)
}

/// Serializes bytes as one string of hexadecimal digits.
pub(super) fn as_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('?');
    let text: String = bytes
        .iter()
        .flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)])
        .collect();
    serializer.serialize_str(&text)
}

/// Serializes a number as `0x…`: JSON readers lose the low bits of numbers above 2^53.
pub(super) fn as_hex_number<T: LowerHex, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

/// Serializes numbers as [`as_hex_number`] does.
pub(super) fn as_hex_numbers<T: LowerHex, S: Serializer>(
    values: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| format!("{value:#x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: STA-05
    #[test]
    fn shorter_bytes_are_padded_and_longer_ones_need_a_zero_tail() {
        assert_eq!(fit_bytes(&[1, 2], 4), Ok(vec![1, 2, 0, 0]));
        assert_eq!(fit_bytes(&[1, 2, 0, 0], 2), Ok(vec![1, 2]));
        assert_eq!(
            fit_bytes(&[1, 2, 0, 9], 2),
            Err(ByteStateError::Lost {
                stored: 4,
                wanted: 2,
                first_lost: 3
            })
        );
    }
}
