//! How a guest is made: what a snapshot carries as the machine's configuration.

use serde::{Deserialize, Serialize};
use snapshot_format::{MemoryLayout, PAGE_BYTES};

use crate::error::GuestError;

/// The least memory: the program and its page tables, and a heap of one page.
pub const MIN_MEMORY_BYTES: u64 = 2 << 20;

/// The most memory that the guest's page tables map: one page directory.
pub const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// The configuration of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// Memory in bytes: a power of two from [`MIN_MEMORY_BYTES`] to [`MAX_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// Steps of the program: each writes eight bytes to one page chosen at random.
    pub steps: u64,
    /// Where the randomness begins.
    pub seed: u64,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            steps: 40_000,
            seed: 0x0123_4567_89ab_cdef,
        }
    }
}

impl GuestConfig {
    /// Refuses a configuration that no guest can have.
    pub fn check(&self) -> Result<(), GuestError> {
        let sizes = MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES;
        if sizes.contains(&self.memory_bytes) && self.memory_bytes.is_power_of_two() {
            Ok(())
        } else {
            Err(GuestError::MemorySize {
                found: self.memory_bytes,
            })
        }
    }

    /// The memory of such a guest: one region from address 0.
    pub fn layout(&self) -> Result<MemoryLayout, GuestError> {
        self.check()?;
        MemoryLayout::single(self.memory_bytes).map_err(|_| GuestError::MemorySize {
            found: self.memory_bytes,
        })
    }

    /// Pages of memory.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.memory_bytes / PAGE_BYTES
    }

    /// The bytes that a manifest carries.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [self.memory_bytes, self.steps, self.seed];
        let magic = MAGIC.iter().copied();
        magic
            .chain(words.into_iter().flat_map(u64::to_le_bytes))
            .collect()
    }

    /// Reads the bytes of a manifest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GuestError> {
        let foreign = GuestError::ForeignConfig { len: bytes.len() };
        let Some(words) = bytes.strip_prefix(MAGIC.as_slice()) else {
            return Err(foreign);
        };
        let (words, []) = words.as_chunks::<8>() else {
            return Err(foreign);
        };
        let &[memory_bytes, steps, seed] = words else {
            return Err(foreign);
        };
        let config = Self {
            memory_bytes: u64::from_le_bytes(memory_bytes),
            steps: u64::from_le_bytes(steps),
            seed: u64::from_le_bytes(seed),
        };
        config.check()?;
        Ok(config)
    }
}

const MAGIC: [u8; 8] = *b"tinyvm01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_bytes() {
        let config = GuestConfig::default();
        assert_eq!(GuestConfig::from_bytes(&config.to_bytes()).unwrap(), config);
    }

    #[test]
    fn foreign_or_impossible_configurations_are_refused() {
        let small = GuestConfig {
            memory_bytes: 4096,
            ..GuestConfig::default()
        };
        let bytes = GuestConfig::default().to_bytes();
        for bad in [&small.to_bytes()[..], &bytes[..31], &bytes[1..], &[]] {
            assert!(
                GuestConfig::from_bytes(bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
