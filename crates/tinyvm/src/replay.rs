//! The memory of a guest that runs the pattern, computed apart from any guest: what its memory and
//! its snapshots are compared with, byte by byte.

use snapshot_format::state::Registers;
use snapshot_format::{PAGE_BYTES, PageRange};
use snapshot_memory::GuestMemorySource;

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::memory::GuestMemory;
use crate::program::{self, CODE, HEAP, STORED_OFFSET, VECTOR_IN, VECTOR_OUT, heap_pages, next};
use crate::proof::Program;

/// How far the pattern had come where it was stopped, as the registers of its vCPU tell.
///
/// It holds between any two instructions, and of the process backend between any two steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    /// Writes to the heap that were done.
    writes: u64,
    /// Whether the vector register was stored, which comes after all of them.
    has_stored_vector: bool,
}

impl Position {
    /// Where a vCPU with these registers stands.
    #[must_use]
    pub fn of(registers: &Registers) -> Self {
        // A step counts itself one instruction after its write.
        let uncounted = u64::from(registers.rip == CODE + STORED_OFFSET);
        Self {
            writes: registers.rcx + uncounted,
            has_stored_vector: registers.rip >= CODE + program::VECTOR_STORED_OFFSET,
        }
    }

    /// After so many writes to the heap, on the way to the next.
    #[must_use]
    pub fn after(writes: u64) -> Self {
        Self {
            writes,
            has_stored_vector: false,
        }
    }

    /// Writes to the heap that were done.
    #[must_use]
    pub fn writes(self) -> u64 {
        self.writes
    }
}

/// A plain array of the bytes that the pattern's guest has in memory.
#[derive(Clone, Debug)]
pub struct Replay {
    bytes: Vec<u8>,
    heap_pages: u64,
    state: u64,
    at: Position,
}

impl Replay {
    /// Memory before the first step.
    pub fn new(config: &GuestConfig) -> Result<Self, GuestError> {
        let program = config.program;
        if program != Program::Pattern {
            return Err(GuestError::NoReplay { program });
        }
        let memory = GuestMemory::fresh(config)?;
        let memory = memory.mapped();
        program::load(config, memory)?;
        let mut bytes = vec![0; memory.len_bytes()];
        memory.read_pages(PageRange::new(0, config.page_count()), &mut bytes)?;
        Ok(Self {
            bytes,
            heap_pages: heap_pages(config),
            state: config.seed,
            at: Position::default(),
        })
    }

    /// Does what the guest did from where this is up to `position`.
    ///
    /// The error says that the position is behind: a guest does not go back.
    pub fn advance(&mut self, position: Position) -> Result<(), GuestError> {
        if position < self.at {
            let (from, to) = (self.at.writes, position.writes);
            return Err(GuestError::WentBack { from, to });
        }
        for _ in self.at.writes..position.writes {
            self.state = next(self.state);
            let page = ((self.state >> 32) * self.heap_pages) >> 32;
            let word = self.state.to_le_bytes();
            self.write(HEAP + page * PAGE_BYTES, &word);
        }
        if position.has_stored_vector {
            let mut vector = [0; 16];
            if let Some(from) = slice(&mut self.bytes, VECTOR_IN, vector.len()) {
                vector.copy_from_slice(from);
            }
            self.write(VECTOR_OUT, &vector);
        }
        self.at = position;
        Ok(())
    }

    /// Writes what somebody else than the program wrote: the VMM, say. Bytes beyond the memory are
    /// ignored.
    pub fn write(&mut self, offset_bytes: u64, bytes: &[u8]) {
        if let Some(to) = slice(&mut self.bytes, offset_bytes, bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// The bytes as they must be.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn slice(bytes: &mut [u8], offset_bytes: u64, len: usize) -> Option<&mut [u8]> {
    let at = usize::try_from(offset_bytes).ok()?;
    bytes.get_mut(at..at.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{can_run, config};
    use crate::{Backend, start};

    fn follows(backend: Backend) {
        if !can_run(backend) {
            return;
        }
        let mut guest = start(backend, &config()).unwrap();
        let mut replay = Replay::new(&config()).unwrap();
        let mut looks = 0;
        let mut compare = |guest: &mut dyn crate::Guest| {
            let mut position = Position::default();
            guest
                .look(&mut |standing| {
                    position = Position::of(standing.registers());
                    replay.advance(position).unwrap();
                    let mut bytes = vec![0; replay.bytes().len()];
                    standing
                        .memory()
                        .read_pages(PageRange::new(0, config().page_count()), &mut bytes)
                        .unwrap();
                    assert!(bytes == replay.bytes(), "at {position:?}");
                })
                .unwrap();
            looks += 1;
            position
        };
        assert_eq!(compare(&mut *guest).writes(), 0);
        while guest.run(256).unwrap() < config().steps - 64 {
            compare(&mut *guest);
        }
        guest.run(u64::MAX).unwrap();
        let end = compare(&mut *guest);
        assert!(end.has_stored_vector && end.writes() == config().steps);
        assert!(looks > 10);
    }

    #[test]
    fn a_kvm_guest_has_the_bytes_of_the_replay_wherever_it_is_stopped() {
        follows(Backend::Kvm);
    }

    #[test]
    fn a_process_guest_has_the_bytes_of_the_replay_wherever_it_is_stopped() {
        follows(Backend::Process);
    }

    #[test]
    fn a_replay_goes_forward_and_knows_the_pattern_alone() {
        let mut replay = Replay::new(&config()).unwrap();
        replay.advance(Position::after(3)).unwrap();
        let back = replay.advance(Position::after(2)).unwrap_err();
        assert!(matches!(back, GuestError::WentBack { from: 3, to: 2 }));
        let program = Program::Token;
        let other = GuestConfig {
            program,
            ..config()
        };
        let refused = Replay::new(&other).unwrap_err();
        assert!(matches!(refused, GuestError::NoReplay { .. }));
    }
}
