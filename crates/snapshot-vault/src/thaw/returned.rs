//! Archived snapshots that are gone from their store, back under their ids.

use snapshot_format::FileKind;
use snapshot_memory::PageSource;
use snapshot_store::{ReturningSnapshot, Store};

use super::{ColdSource, ThawOptions, Thawed, metadata};
use crate::archives::ColdSnapshot;
use crate::domain::Domain;
use crate::error::VaultError;
use crate::id::ObjectId;
use crate::recipe::ArchivedKind;

impl Domain {
    /// Publishes an archived snapshot that its store has neither in use nor in the trash, under the id
    /// that it had and with the same manifest, so that children find it. It depends on no other.
    ///
    /// Every chunk is checked before a page of it is written, the pages that it stored itself are
    /// checked against its manifest, too, and it appears whole or not at all. The base in `options` is
    /// of no account.
    pub fn bring_back(
        &self,
        archive: ObjectId,
        store: &Store,
        options: &ThawOptions,
    ) -> Result<Thawed, VaultError> {
        let span = tracing::info_span!("bring_back", %archive);
        let _inside = span.enter();
        let cold = self.open_archive(archive)?;
        let manifest = needed(&cold, FileKind::Manifest)?;
        let state = cold.file(ArchivedKind::Snapshot(FileKind::State), 0)?;
        let memory = match cold.memory() {
            Some(image) => Some((needed(&cold, FileKind::MemoryMap)?, ColdSource::new(image))),
            None => None,
        };
        let from = ReturningSnapshot {
            manifest: &manifest,
            state: state.as_deref(),
            memory: memory
                .as_ref()
                .map(|(map, source)| (map.as_slice(), source as &dyn PageSource)),
            metadata: metadata(&cold, options)?,
            control: options.capture.control.clone(),
        };
        let returned = store.bring_back(&from).map_err(VaultError::from);
        let returned = returned.map_err(|error| match &memory {
            Some((_, source)) => source.or(error),
            None => error,
        })?;
        Ok(Thawed {
            id: returned.snapshot.id,
            archived: cold.snapshot(),
            archive,
            base: None,
            stats: returned.stats,
        })
    }
}

/// A file without which a snapshot does not come back as what it was.
fn needed(cold: &ColdSnapshot, kind: FileKind) -> Result<Vec<u8>, VaultError> {
    let file = cold.file(ArchivedKind::Snapshot(kind), 0)?;
    file.ok_or_else(|| VaultError::NotFound {
        what: format!(
            "{} in archive {}, which thaws under a new id alone,",
            kind.file_name(0),
            cold.id()
        ),
    })
}
