//! What the guest of a restore has touched.

use super::method::{MappedFrom, RestoreMethod};
use super::restored::RestoredMemory;
use crate::serve::PageServer;
use crate::working_set::{
    Observed, Refreshed, Seen, TouchedPages, WorkingSetError, WorkingSetFault,
};

impl RestoredMemory {
    /// What the guest has touched since it was brought back, as far as it can be seen: of served
    /// memory what faults brought, of mapped files what the page cache has now and did not have,
    /// of a memfd that guests share which pages are mapped.
    ///
    /// Memory that was read as a whole tells nothing.
    pub fn observe(&self) -> Result<Observed, WorkingSetError> {
        match self.report.method {
            RestoreMethod::Served { .. } => match self.server() {
                Some(server) => Ok(self.traced(server)),
                None => Err(WorkingSetError::NotObserved {
                    why: "nobody serves it",
                }),
            },
            RestoreMethod::Mapped {
                from: MappedFrom::SealedMemfd,
                ..
            } => TouchedPages::present(&**self.memory()).map(Observed::all),
            RestoreMethod::Mapped { .. } => {
                let Some(before) = &self.resident_before else {
                    let why = "nobody asked for it when its files were mapped";
                    return Err(WorkingSetError::NotObserved { why });
                };
                let now = TouchedPages::resident(&**self.memory())?;
                let seen = if before.pages() == 0 {
                    Seen::All
                } else {
                    Seen::NotBrought(None)
                };
                Ok(Observed::new(now.without(before), seen))
            }
            RestoreMethod::Eager => {
                let why = "all of it was read before the guest ran";
                Err(WorkingSetError::NotObserved { why })
            }
        }
    }

    /// Hands what the guest has touched to the keeper of the working set that the restore was given,
    /// which makes a new set count where it is worth it. `None`: none was given.
    ///
    /// Best called once the guest is warm.
    pub fn refresh_working_set(&self) -> Result<Option<Refreshed>, WorkingSetError> {
        let keeper = self.keeper.as_ref();
        keeper
            .map(|keeper| keeper.refresh(&self.observe()?))
            .transpose()
    }

    fn traced(&self, server: &PageServer) -> Observed {
        let trace = server.trace();
        let touched = TouchedPages::of_trace(server.page_count(), &trace);
        let is_whole = trace.left_out == 0 && !server.fills();
        let seen = match (is_whole, self.replay()) {
            (false, _) => Seen::NotBrought(None),
            (true, Some(replay)) if replay.brought_any() => Seen::NotBrought(replay.hold_back()),
            (true, _) => Seen::All,
        };
        let fault = self.replay().and_then(|replay| replay.report().fault);
        Observed {
            is_damaged: fault == Some(WorkingSetFault::Damaged),
            ..Observed::new(touched, seen)
        }
    }
}
