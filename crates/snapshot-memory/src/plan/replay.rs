//! The working set of a restore, on its way into served memory.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use snapshot_format::{PAGE_BYTES, PageRange};

use super::report::WorkingSetReport;
use super::restore_from::RestoreFrom;
use crate::capture::Cancel;
use crate::serve::Prefetcher;
use crate::working_set::{
    HoldBack, PageTarget, ReplayOptions, WorkingSet, WorkingSetError, WorkingSetFault,
};

/// Bytes of a working set that are brought before the guest runs: what it touches first.
const BEFORE_BYTES: u64 = 4 << 20;

/// The working set of a restore: what is in place of it, and what became of the rest.
///
/// It takes nothing from the restore that it fails: pages that do not come by it are served when
/// they are touched. Dropping it ends it.
#[derive(Debug)]
pub struct WorkingSetReplay {
    shared: Arc<Shared>,
    /// What was in place when the guest could run.
    before: WorkingSetReport,
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

/// The end of a replay, as an event of the restore.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplayOutcome {
    /// What is in place.
    pub report: WorkingSetReport,
    /// Why nothing more is; `None`: all of it is, or there was none.
    pub error: Option<WorkingSetError>,
}

/// What the restore and the thread beside the guest share.
#[derive(Debug)]
struct Shared {
    set_pages: AtomicU64,
    data_pages: AtomicU64,
    zero_pages: AtomicU64,
    hold_back: Option<HoldBack>,
    outcome: OnceLock<ReplayOutcome>,
}

impl WorkingSetReplay {
    /// Brings the first part, on `threads` threads, and begins to bring the rest.
    pub(super) fn start(target: Prefetcher, threads: u32, from: &RestoreFrom) -> Self {
        let mut replay = Self {
            shared: Arc::new(Shared {
                set_pages: AtomicU64::new(0),
                data_pages: AtomicU64::new(0),
                zero_pages: AtomicU64::new(0),
                hold_back: from.hold_back,
                outcome: OnceLock::new(),
            }),
            before: WorkingSetReport::default(),
            cancel: Cancel::default(),
            thread: None,
        };
        let rest = replay.bring_first(&target, threads, from);
        replay.before = replay.report();
        if let Some((set, options)) = rest {
            replay.go_on(set, target, options);
        }
        replay
    }

    /// Brings the first part; gives what is to follow.
    fn bring_first(
        &self,
        target: &Prefetcher,
        threads: u32,
        from: &RestoreFrom,
    ) -> Option<(WorkingSet, ReplayOptions)> {
        let shared = &*self.shared;
        let opened = from.working_set.as_ref().map(|keeper| keeper.open());
        let mut set = match opened {
            Some(Ok(Some(set))) => set,
            Some(Err(error)) => {
                shared.end(Err(error));
                return None;
            }
            Some(Ok(None)) | None => {
                shared.tell(Some(WorkingSetFault::Missing), None);
                return None;
            }
        };
        let view = set.view();
        let pages = view.data_pages + view.zero_pages;
        shared.set_pages.store(pages, Ordering::Relaxed);
        let threads = usize::try_from(threads).unwrap_or(usize::MAX);
        let before = ReplayOptions::new(threads).cancel(from.cancel.clone());
        let (first, beside) = match from.replay_threads {
            0 => (0..u64::MAX, None),
            threads => (0..BEFORE_BYTES, Some(threads)),
        };
        let brought = shared.bring(&mut set, target, &before.part(first));
        match (brought, beside) {
            (Ok(()), Some(threads)) if set.index().data_len() > BEFORE_BYTES => {
                let rest = ReplayOptions::new(threads).cancel(self.cancel.clone());
                Some((set, rest.part(BEFORE_BYTES..u64::MAX)))
            }
            (brought, _) => {
                shared.end(brought);
                None
            }
        }
    }

    fn go_on(&mut self, mut set: WorkingSet, target: Prefetcher, rest: ReplayOptions) {
        let ends = Ends(Arc::clone(&self.shared));
        let thread = thread::Builder::new().name("working-set".into());
        let run = move || {
            let brought = ends.0.bring(&mut set, &target, &rest);
            ends.0.end(brought);
        };
        match thread.spawn(run) {
            Ok(thread) => self.thread = Some(thread),
            Err(source) => self.shared.end(Err(WorkingSetError::NoThread(source))),
        }
    }

    /// What was in place when the guest could run.
    #[must_use]
    pub fn before(&self) -> WorkingSetReport {
        self.before
    }

    /// What is in place by now.
    #[must_use]
    pub fn report(&self) -> WorkingSetReport {
        match self.outcome() {
            Some(outcome) => outcome.report,
            None => self.shared.report(None),
        }
    }

    /// The end of it; `None`: it is on its way.
    #[must_use]
    pub fn outcome(&self) -> Option<&ReplayOutcome> {
        self.shared.outcome.get()
    }

    /// Waits for the end.
    pub fn wait(&self) -> &ReplayOutcome {
        self.shared.outcome.wait()
    }

    /// Asks for the end, which comes within some milliseconds.
    pub fn cancel(&self) {
        self.cancel.ask();
    }

    pub(super) fn hold_back(&self) -> Option<HoldBack> {
        self.shared.hold_back
    }

    /// Whether pages of the set were to be put in place, so that nobody sees whether the guest
    /// touches them.
    pub(super) fn brought_any(&self) -> bool {
        self.shared.set_pages.load(Ordering::Relaxed) > 0
    }
}

impl Drop for WorkingSetReplay {
    fn drop(&mut self) {
        self.cancel();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that brings a working set panicked");
        }
    }
}

impl Shared {
    fn bring(
        &self,
        set: &mut WorkingSet,
        target: &Prefetcher,
        options: &ReplayOptions,
    ) -> Result<(), WorkingSetError> {
        let counted = Counted {
            target,
            shared: self,
        };
        let brought = match self.hold_back {
            None => set.replay(&counted, options),
            Some(hold_back) => set.replay(&hold_back.without(&counted), options),
        };
        brought.map(drop)
    }

    fn end(&self, brought: Result<(), WorkingSetError>) {
        let error = brought.err();
        let fault = error.as_ref().map(WorkingSetError::fault);
        self.tell(fault, error);
    }

    fn tell(&self, fault: Option<WorkingSetFault>, error: Option<WorkingSetError>) {
        if let Some(error) = &error {
            let error: &dyn Error = error;
            tracing::warn!(error, "the guest goes on without all of its working set");
        }
        let report = WorkingSetReport {
            is_done: true,
            ..self.report(fault)
        };
        // The first end is the end.
        let _ = self.outcome.set(ReplayOutcome { report, error });
    }

    fn report(&self, fault: Option<WorkingSetFault>) -> WorkingSetReport {
        let data_pages = self.data_pages.load(Ordering::Relaxed);
        WorkingSetReport {
            set_pages: self.set_pages.load(Ordering::Relaxed),
            data_pages,
            zero_pages: self.zero_pages.load(Ordering::Relaxed),
            data_bytes: data_pages * PAGE_BYTES,
            is_done: false,
            fault,
        }
    }
}

/// Counts what a target has taken.
struct Counted<'t> {
    target: &'t Prefetcher,
    shared: &'t Shared,
}

impl PageTarget for Counted<'_> {
    fn page_count(&self) -> u64 {
        self.target.page_count()
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.target.put(pages, bytes)?;
        let count = &self.shared.data_pages;
        count.fetch_add(pages.count, Ordering::Relaxed);
        Ok(())
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.target.put_zero(pages)?;
        let count = &self.shared.zero_pages;
        count.fetch_add(pages.count, Ordering::Relaxed);
        Ok(())
    }
}

/// Tells of the end where the thread panics.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.end(Err(WorkingSetError::Panicked));
        }
    }
}

#[cfg(test)]
mod tests;
