//! Giving space back: deleted snapshots that nobody needs, and files that newer placements
//! superseded.
//!
//! Why nothing goes that is needed is in `specs/27-garbage.md`; the protocol is explored as a model in
//! the tests of this crate.

mod collect;
mod grace;
mod marks;
mod report;
mod reserve;
mod trim;

use snapshot_format::Operation;
use snapshot_memory::backend::LockMode;

use crate::directory;
use crate::error::StoreError;
use crate::lock;
use crate::store::Store;
use collect::Collection;
use marks::Marks;
use trim::Superseded;

pub(crate) use grace::forget as forget_grace;
pub use report::{
    Collected, GarbageOptions, GarbageProblem, GarbageReport, KeptInTrash, KeptReason, Trimmed,
};

impl Store {
    /// What [`collect`](Self::collect) would do now. Nothing is changed.
    ///
    /// What only another victim needs is told as needed: it may be collected in the same run, after
    /// that.
    pub fn plan_collect(&self, options: &GarbageOptions) -> Result<GarbageReport, StoreError> {
        self.allow(Operation::Gc)?;
        let mut marks = Marks::default();
        marks.refresh(self)?;
        let mut report = GarbageReport::default();
        for (id, location, _) in marks.all() {
            match Superseded::find(self, location, id, &marks) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    let allocated_bytes = found.allocated_bytes(self, &location.snapshot(id));
                    let (mut files, data) = found.file_names();
                    files.extend(data);
                    report.freed_bytes += allocated_bytes;
                    report.trimmed.push(Trimmed {
                        id,
                        files,
                        allocated_bytes,
                    });
                }
                Err(error) => report.problem(id, error.to_string()),
            }
        }
        for id in marks.deleted().filter(|id| marks.is_free(*id)) {
            if grace::pending(self, id, options).is_none() {
                let victim = collect::weigh(self, id)?;
                report.freed_bytes += victim.allocated_bytes;
                report.collected.push(victim);
            }
        }
        report.kept = collect::kept(&marks, &mut |id| {
            let noted = grace::pending(self, id, options);
            noted.map(|noted_unix_ms| KeptReason::Grace { noted_unix_ms })
        });
        for (id, problem) in marks.unreadable() {
            report.problem(id, problem);
        }
        Ok(report)
    }

    /// Removes deleted snapshots that nobody needs, and superseded files, for good.
    ///
    /// What cannot be removed is in the report, and keeps nothing else. An error says that nothing
    /// more could be done; what was done is done, and the next collection goes on.
    pub fn collect(&self, options: &GarbageOptions) -> Result<GarbageReport, StoreError> {
        let span = tracing::info_span!("collect");
        let _inside = span.enter();
        self.begin_write()?;
        self.allow(Operation::Gc)?;
        let path = directory::garbage_lock();
        let wait = self.lock_wait();
        let _alone = lock::take(self.backend(), &path, LockMode::Exclusive, wait)?;
        Collection::new(self, options).run()
    }
}
