//! Archives as copies from which a store is repaired.

use snapshot_format::{FileKind, SnapshotId};
use snapshot_memory::PageSource;
use snapshot_store::{RepairSource, WantedFile, WantedPages};

use crate::archives::ColdSnapshot;
use crate::domain::Domain;
use crate::error::VaultError;
use crate::image::ColdImage;
use crate::recipe::ArchivedKind;

/// The archives of domains, as copies of what a store holds: for
/// [`Store::repair`](snapshot_store::Store::repair).
///
/// Pages come from the archive of the snapshot that stored them, or from one of any snapshot with the
/// same layout that may have inherited them: the digest that is wanted decides. Archives that were
/// deleted are copies until they are expired. What cannot be read is passed over.
#[derive(Debug)]
pub struct ArchivedCopies {
    name: String,
    archives: Vec<Copy>,
    /// The archive that had the last pages.
    last: Option<usize>,
}

#[derive(Debug)]
struct Copy {
    cold: ColdSnapshot,
    memory: Option<ColdImage>,
}

impl ArchivedCopies {
    /// Opens every archive of the domains that can be read. Reports call them by `name`.
    pub fn open(name: &str, domains: &[Domain]) -> Result<Self, VaultError> {
        let mut archives: Vec<Copy> = Vec::new();
        for domain in domains {
            let mut beside: Option<ColdSnapshot> = None;
            for summary in domain.archives()?.archives {
                let opened = match &beside {
                    Some(beside) => beside.open_beside(summary.id),
                    None => domain.open_archive(summary.id),
                };
                match opened {
                    Ok(cold) => {
                        beside.get_or_insert_with(|| cold.clone());
                        let memory = cold.memory();
                        archives.push(Copy { cold, memory });
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, archive = %summary.id, "an archive is no copy");
                    }
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            archives,
            last: None,
        })
    }

    /// The archives that may have pages of a snapshot: its own, the one that had the last, some others.
    fn likely(&self, snapshot: SnapshotId) -> Vec<usize> {
        let is_own = |at: &usize| {
            let copy = self.archives.get(*at);
            copy.is_some_and(|copy| copy.cold.snapshot() == snapshot)
        };
        let own = (0..self.archives.len()).filter(is_own);
        let others = (0..self.archives.len()).filter(|at| !is_own(at) && Some(*at) != self.last);
        own.chain(self.last)
            .chain(others.take(MAX_OTHERS))
            .collect()
    }
}

impl RepairSource for ArchivedCopies {
    fn name(&self) -> &str {
        &self.name
    }

    fn pages(&mut self, wanted: &WantedPages<'_>) -> Option<Vec<u8>> {
        let found = self
            .likely(wanted.data.snapshot)
            .into_iter()
            .find_map(|at| {
                let memory = self.archives.get(at)?.memory.as_ref()?;
                Some((at, pages_of(memory, wanted)?))
            });
        let (at, bytes) = found?;
        self.last = Some(at);
        Some(bytes)
    }

    fn file(&mut self, wanted: &WantedFile) -> Option<Vec<u8>> {
        let kind = match wanted.kind {
            FileKind::Manifest | FileKind::State | FileKind::MemoryMap => wanted.kind,
            _ => return None,
        };
        let index = u16::try_from(wanted.index).ok()?;
        let archives = self.archives.iter();
        let mut own = archives.filter(|copy| copy.cold.snapshot() == wanted.snapshot);
        own.find_map(|copy| {
            let file = copy.cold.file(ArchivedKind::Snapshot(kind), index);
            file.ok().flatten()
        })
    }
}

/// The bytes of pages, if this memory has them: they must have the digest.
fn pages_of(memory: &ColdImage, wanted: &WantedPages<'_>) -> Option<Vec<u8>> {
    if PageSource::layout(memory) != wanted.layout {
        return None;
    }
    let mut bytes = vec![0; wanted.present.len() * PAGE_BYTES];
    memory.read_pages(wanted.pages, &mut bytes).ok()?;
    for (page, present) in bytes.chunks_exact_mut(PAGE_BYTES).zip(wanted.present) {
        if !present {
            page.fill(0);
        }
    }
    wanted.digest.check(&bytes).is_ok().then_some(bytes)
}

const PAGE_BYTES: usize = 4096;

/// Archives of other snapshots that are asked for the same pages.
const MAX_OTHERS: usize = 64;
