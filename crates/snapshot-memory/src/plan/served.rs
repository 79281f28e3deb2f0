//! Doing what a plan says that serves memory.

use std::sync::Arc;

use snapshot_format::PageRange;

use super::fill::FillError;
use super::method::Faults;
use super::replay::WorkingSetReplay;
use super::restore_from::RestoreFrom;
use super::restore_plan::RestorePlan;
use super::restored::RestoredMemory;
use super::run::{RestoreMemoryError, failed_to_map};
use crate::image::MemoryImage;
use crate::mapping::MappedMemory;
use crate::restore::PageSource;
use crate::serve::{PageServer, ServeError, SharedPages};
use crate::source::GuestMemorySource;
use crate::uffd::UffdContext;

impl RestorePlan {
    /// Has `memory` served: fresh memory, or private mappings of the pages that clones share.
    pub(super) fn serve(
        &self,
        memory: &Arc<MappedMemory>,
        from: &RestoreFrom,
        faults: Faults,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let source: Arc<dyn PageSource> = Arc::<MemoryImage>::clone(&from.image);
        let shared = match (faults, &from.shared) {
            (Faults::Missing, _) => None,
            (Faults::Minor, Some(pages)) if pages.source().layout() == memory.layout() => {
                Some(Arc::clone(pages))
            }
            (Faults::Minor, Some(_)) => return Err(RestoreMemoryError::LayoutDiffers),
            (Faults::Minor, None) => Some(SharedPages::new(Arc::clone(&source))?),
        };
        if let Some(pages) = &shared {
            let all = PageRange::new(0, memory.layout().page_count());
            let mapped = memory.map_file(all, pages.memfd(), 0);
            mapped.map_err(failed_to_map("the pages that clones share", 0))?;
        }
        let served = UffdContext::serving(&**memory, from.uffd, shared.is_some());
        let (context, ranges) = served.map_err(ServeError::from)?;
        let server = match shared.clone() {
            Some(pages) => PageServer::start_shared(context, ranges, pages, from.serve),
            None => PageServer::start(context, ranges, source, from.serve),
        };
        let server = server?;
        let mut restored = RestoredMemory::new(memory, self.report());
        if self.replays_working_set {
            let replay = WorkingSetReplay::start(server.prefetcher(), self.threads, from);
            if from.cancel.is_asked() {
                return Err(FillError::Cancelled.into());
            }
            restored.report.working_set = Some(replay.before());
            restored.replay = Some(replay);
        }
        restored.server = Some(server);
        restored.shared = shared;
        Ok(restored)
    }
}
