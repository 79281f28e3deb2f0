//! How a guest is made: what a snapshot carries as the machine's configuration.

use serde::{Deserialize, Serialize};
use snapshot_format::{MemoryLayout, PAGE_BYTES};

use crate::error::GuestError;
use crate::proof::Program;

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
    /// Steps of the program. Those of the pattern write eight bytes each to one page chosen at
    /// random.
    pub steps: u64,
    /// Where the randomness begins.
    pub seed: u64,
    /// What the guest runs.
    #[serde(default)]
    pub program: Program,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            steps: 40_000,
            seed: 0x0123_4567_89ab_cdef,
            program: Program::Pattern,
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
    ///
    /// Those of a guest that runs the pattern have not changed since there is no other program.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [self.memory_bytes, self.steps, self.seed];
        let (magic, program) = match self.program {
            Program::Pattern => (MAGIC, None),
            program => (MAGIC_WITH_PROGRAM, Some(program.number())),
        };
        let words = words.into_iter().chain(program);
        magic
            .into_iter()
            .chain(words.flat_map(u64::to_le_bytes))
            .collect()
    }

    /// Reads the bytes of a manifest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GuestError> {
        let foreign = GuestError::ForeignConfig { len: bytes.len() };
        let (magic, words) = bytes.split_at_checked(MAGIC.len()).unwrap_or_default();
        let (words, []) = words.as_chunks::<8>() else {
            return Err(foreign);
        };
        let words: Vec<u64> = words.iter().copied().map(u64::from_le_bytes).collect();
        let (memory_bytes, steps, seed, program) = match (magic, words.as_slice()) {
            (magic, &[memory_bytes, steps, seed]) if magic == MAGIC => {
                (memory_bytes, steps, seed, Some(Program::Pattern))
            }
            (magic, &[memory_bytes, steps, seed, program]) if magic == MAGIC_WITH_PROGRAM => {
                (memory_bytes, steps, seed, Program::proof(program))
            }
            _ => return Err(foreign),
        };
        let config = Self {
            memory_bytes,
            steps,
            seed,
            program: program.ok_or(foreign)?,
        };
        config.check()?;
        Ok(config)
    }
}

/// Of a guest that runs the pattern: memory, steps, seed.
const MAGIC: [u8; 8] = *b"tinyvm01";

/// Of any other: the same, and the number of the program.
const MAGIC_WITH_PROGRAM: [u8; 8] = *b"tinyvm02";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_bytes() {
        let config = GuestConfig::default();
        assert_eq!(GuestConfig::from_bytes(&config.to_bytes()).unwrap(), config);
        for program in Program::PROOFS {
            let config = GuestConfig { program, ..config };
            assert_eq!(GuestConfig::from_bytes(&config.to_bytes()).unwrap(), config);
        }
    }

    #[test]
    fn a_configuration_from_before_there_were_programs_is_that_of_the_pattern() {
        let mut bytes = b"tinyvm01".to_vec();
        bytes.extend([2 << 20, 3, 4].into_iter().flat_map(u64::to_le_bytes));
        let config = GuestConfig::from_bytes(&bytes).unwrap();
        assert_eq!((config.steps, config.seed), (3, 4));
        assert_eq!(config.program, Program::Pattern);
        assert_eq!(config.to_bytes(), bytes);
    }

    #[test]
    fn foreign_or_impossible_configurations_are_refused() {
        let small = GuestConfig {
            memory_bytes: 4096,
            ..GuestConfig::default()
        };
        let bytes = GuestConfig::default().to_bytes();
        let proof = GuestConfig {
            program: Program::Token,
            ..GuestConfig::default()
        };
        let mut unknown = proof.to_bytes();
        unknown[32] = 0xff;
        let mut pattern = proof.to_bytes();
        pattern[32] = 0;
        let small = small.to_bytes();
        for bad in [
            &small[..],
            &bytes[..31],
            &bytes[1..],
            &[],
            &unknown,
            &pattern,
        ] {
            assert!(
                GuestConfig::from_bytes(bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
