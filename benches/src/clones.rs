//! One process that is a clone: memory brought back, a KVM machine around it, and a program that
//! runs in it.

// UNSAFETY: guest memory is registered with KVM.
#![expect(unsafe_code, reason = "vouches that guest memory outlives its machine")]

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use memmap2::MmapMut;
use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;

use crate::child::answer;
use crate::error::BenchError;
use crate::kvm::{HostMemory, Machine};
use crate::machine_code::{FIRST, SECOND, WRITTEN};
use crate::restore::one_page::OnePage;
use crate::restore::ours::{Ours, Shared};
use crate::restore::plain::{self, Eager, FileMap, ReadAhead};
use crate::restore::subject::Subject;
use crate::restore::touch::{GuestWords, Way};
use crate::rss::resident;

/// What a process with clones is to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct CloneJob {
    store: PathBuf,
    id: String,
    raw: PathBuf,
    mem_bytes: u64,
    /// `None`: machines with empty memory, in which nothing runs.
    way: Option<Way>,
    /// How many clones are in the process.
    count: usize,
}

/// What came out, of all clones of the process together.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cloned {
    /// Bringing memory back, in milliseconds.
    pub(crate) restore_ms: f64,
    /// Making machines and telling KVM of the memory.
    pub(crate) machine_ms: f64,
    /// The first instruction.
    pub(crate) first_ms: f64,
    /// Anonymous memory that is resident in the end.
    pub(crate) anonymous_bytes: u64,
}

/// A machine and its memory, dropped in this order.
pub(crate) struct LiveClone {
    _machine: Machine,
    memory: Box<dyn GuestBytes>,
}

impl LiveClone {
    /// Makes a machine over `memory`, and runs its program if it has one.
    pub(crate) fn new(
        mut memory: Box<dyn GuestBytes>,
        has_program: bool,
        cloned: &mut Cloned,
    ) -> Result<Self, BenchError> {
        let start = Instant::now();
        // SAFETY: the memory is dropped after the machine.
        let mut machine = unsafe { Machine::new(memory.host()) }?;
        cloned.machine_ms += millis(start);
        if has_program {
            let start = Instant::now();
            machine.run_to(FIRST)?;
            cloned.first_ms += millis(start);
            machine.run_to(SECOND)?;
        }
        let clone = Self {
            _machine: machine,
            memory,
        };
        if has_program && clone.memory().word(WRITTEN)?.to_le_bytes()[0] != SECOND {
            let exit = "it did not write to its own memory".to_owned();
            return Err(BenchError::Guest { exit });
        }
        Ok(clone)
    }

    /// Its memory, as the guest left it.
    pub(crate) fn memory(&self) -> &dyn GuestWords {
        &*self.memory
    }
}

/// Guest memory that a machine can run in.
pub(crate) trait GuestBytes: GuestWords {
    /// Where it is.
    fn host(&mut self) -> HostMemory;
}

impl CloneJob {
    /// `count` clones of `subject` in one process; `way: None` for machines without a guest.
    pub(crate) fn new(subject: &Subject, way: Option<Way>, count: usize) -> Self {
        Self {
            store: subject.store.clone(),
            id: subject.id.to_string(),
            raw: subject.raw.clone(),
            mem_bytes: subject.mem_bytes,
            way,
            count,
        }
    }

    /// Makes the clones, says what that took, and keeps them until standard input ends.
    pub(crate) fn run(&self) -> Result<(), BenchError> {
        let mut cloned = Cloned::default();
        let mut clones = Vec::with_capacity(self.count);
        let shared = match self.way {
            Some(Way::Ours(recipe)) if self.count > 1 => {
                let start = Instant::now();
                let shared = Shared::new(&self.store, self.id.parse()?, recipe)?;
                cloned.restore_ms += millis(start);
                Some(shared)
            }
            _ => None,
        };
        for _ in 0..self.count {
            let start = Instant::now();
            let memory = self.memory(shared.as_ref())?;
            cloned.restore_ms += millis(start);
            clones.push(LiveClone::new(memory, self.way.is_some(), &mut cloned)?);
        }
        cloned.anonymous_bytes = resident("RssAnon")?;
        answer(&cloned)?;
        let mut nothing = [0];
        // Its end is what is waited for; an error is an end too.
        let _ = std::io::stdin().read(&mut nothing);
        Ok(())
    }

    fn memory(&self, shared: Option<&Shared>) -> Result<Box<dyn GuestBytes>, BenchError> {
        let id: SnapshotId = self.id.parse()?;
        Ok(match self.way {
            None => Box::new(Empty::new(self.mem_bytes)?),
            Some(Way::Ours(recipe)) => match shared {
                Some(shared) => Box::new(shared.clone_of()?),
                None => Box::new(Ours::restore(&self.store, id, recipe)?),
            },
            Some(Way::MapPrivate) => Box::new(FileMap::new(&self.raw, ReadAhead::Default)?),
            Some(Way::MapPrivateRandom) => Box::new(FileMap::new(&self.raw, ReadAhead::Off)?),
            Some(Way::OnePage) => Box::new(OnePage::new(&self.raw)?),
            Some(Way::Eager) => Box::new(Eager::read(&self.raw)?),
        })
    }
}

/// Memory that nobody has touched.
#[derive(Debug)]
struct Empty(MmapMut);

impl Empty {
    fn new(len_bytes: u64) -> Result<Self, BenchError> {
        let len_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let map = MmapMut::map_anon(len_bytes);
        map.map(Self)
            .map_err(|source| BenchError::Map { len_bytes, source })
    }
}

impl GuestWords for Empty {
    fn word(&self, offset: u64) -> Result<u64, BenchError> {
        plain::word(&self.0, offset)
    }
}

impl GuestBytes for Empty {
    fn host(&mut self) -> HostMemory {
        HostMemory::of(&mut self.0)
    }
}

impl GuestBytes for FileMap {
    fn host(&mut self) -> HostMemory {
        HostMemory::of(self.bytes())
    }
}

impl GuestBytes for Eager {
    fn host(&mut self) -> HostMemory {
        HostMemory::of(self.bytes())
    }
}

impl GuestBytes for OnePage {
    fn host(&mut self) -> HostMemory {
        HostMemory::of(self.bytes())
    }
}

impl HostMemory {
    fn of(bytes: &mut [u8]) -> Self {
        Self {
            address: bytes.as_mut_ptr().expose_provenance() as u64,
            len_bytes: bytes.len() as u64,
        }
    }
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
