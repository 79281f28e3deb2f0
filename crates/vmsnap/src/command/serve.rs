//! `vmsnap serve REF --socket PATH`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use snapshot_format::{PAGE_BYTES, PageRange, SnapshotId};
use snapshot_memory::{
    Background, FaultTrace, HandlerError, HandlerEvent, HandlerOptions, Observed, PageHandler,
    PageSource, Refreshed, Seen, ServeOptions, ServiceEnd, SourceError, TouchedPages, Verdict,
    Verification, WorkingSetOptions,
};
use snapshot_store::{Access, Lease, Reference, StoreError, WorkingSetRefresher};
use snapshot_vault::{ArchiveLease, VaultError};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, exit_of_io, printable};
use crate::output_file::lies_in;
use crate::quantity::counted;
use crate::vault::{Use, VaultOptions, exit_of};
use crate::view::short;

/// Serves the memory of a snapshot to VMs that hand theirs over at a socket, as Firecracker does.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(crate) struct Serve {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Where to listen; for this user alone
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// When pages are checked: each before its guest sees it, or all of them before the first VM too
    #[arg(long, value_enum, default_value = "on-fault")]
    verify: Policy,

    /// End with the first VM
    #[arg(long)]
    once: bool,

    /// Bring all pages in the background, then leave the VM alone; not for VMs that track writes by
    /// the same userfaultfd
    #[arg(long)]
    fill: bool,

    /// Refresh the working set of the snapshot by what each VM touches, page by page
    #[arg(long, conflicts_with = "fill")]
    record: bool,

    /// The one in the vault: its pages come straight from there
    #[arg(long, conflicts_with = "record")]
    archived: bool,

    #[command(flatten)]
    vault: VaultOptions,
}

/// What is served, and what keeps it until the end.
struct Source {
    id: SnapshotId,
    image: Arc<dyn PageSource>,
    refresher: Option<WorkingSetRefresher>,
    _kept: Kept,
}

#[expect(dead_code, reason = "they end when they are dropped")]
enum Kept {
    Stored(Lease),
    Archived(ArchiveLease),
}

/// When served pages are checked: never after the guest saw them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Policy {
    OnFault,
    Eager,
}

/// What was done until the end.
#[derive(Debug, Default, Serialize)]
struct Served {
    machines: u64,
    refused: u64,
    left_waiting: u64,
    faults: u64,
    data_pages: u64,
    zero_pages: u64,
    lost_pages: u64,
}

#[derive(Serialize)]
struct Document {
    id: SnapshotId,
    socket: String,
    verification: &'static str,
    #[serde(flatten)]
    served: Served,
    refreshes: BTreeMap<&'static str, u64>,
    recorded: Option<Recorded>,
}

#[derive(Serialize)]
struct Recorded {
    verdict: &'static str,
    generation: u32,
    file: String,
    data_pages: u64,
    zero_pages: u64,
    left_out_pages: u64,
}

/// What the events of a handler come to.
struct Tally<'r> {
    served: Served,
    /// Where what VMs touched is to go.
    refresher: Option<&'r WorkingSetRefresher>,
    page_count: u64,
    refreshes: BTreeMap<&'static str, u64>,
    recorded: Option<Recorded>,
    failure: Option<StoreError>,
}

impl Serve {
    /// Whether the store is changed.
    pub(crate) fn changes(&self) -> bool {
        self.record
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let source = if self.archived {
            self.archived(context)?
        } else {
            self.stored(context)?
        };
        let Source { id, image, .. } = &source;
        if self.verify == Policy::Eager {
            check_all(context, &**image)?;
        }
        let handler = PageHandler::bind(&self.socket, Arc::clone(image), self.options());
        let handler = handler.map_err(|error| told(&error))?;
        context.note(&format!(
            "serving snapshot {} at {}",
            short(*id),
            self.socket.display()
        ));
        let tally = Tally {
            served: Served::default(),
            refresher: source.refresher.as_ref(),
            page_count: image.layout().page_count(),
            refreshes: BTreeMap::new(),
            recorded: None,
            failure: None,
        };
        let tally = attend(context, &handler, tally)?;
        drop(handler);
        if let Some(error) = tally.failure {
            return Err(context.failure(&error));
        }
        let verification = match self.verify {
            Policy::OnFault => Verification::OnFault,
            Policy::Eager => Verification::Eager,
        };
        let exit = if tally.served.left_waiting > 0 {
            Exit::Interrupted
        } else {
            Exit::Done
        };
        let document = Document {
            id: *id,
            socket: self.socket.display().to_string(),
            verification: verification.name(),
            served: tally.served,
            refreshes: tally.refreshes,
            recorded: tally.recorded,
        };
        let answer = context.answer("vmsnap.serve.v1", &document, tell)?;
        Ok(answer.ending(exit))
    }

    /// A snapshot of the store. Its lease keeps it until the end.
    fn stored(&self, context: &Context) -> Result<Source, Failure> {
        let access = if self.record {
            Access::ReadWrite
        } else {
            Access::Auto
        };
        let store = context.open(access)?;
        let id = context.resolve(&store, &self.reference)?;
        self.check_place(context.store_path()?)?;
        let image = store.image(id).map_err(|error| context.failure(&error))?;
        let (image, lease) = image.into_parts();
        let refresher = || store.working_set_refresher(id, WorkingSetOptions::default());
        Ok(Source {
            id,
            image: Arc::new(image),
            refresher: self.record.then(refresher),
            _kept: Kept::Stored(lease),
        })
    }

    /// A snapshot of the vault, leased until the end. The store is not opened.
    fn archived(&self, context: &Context) -> Result<Source, Failure> {
        let vault = self.vault.open(context, Use::Writes)?;
        self.check_place(&vault.path)?;
        let (domain, found) = vault.find(&self.reference)?;
        let failed = |error| vault.failure(&error);
        let lease = domain.lease_archive(found.archive).map_err(failed)?;
        let cold = domain.open_archive(found.archive).map_err(failed)?;
        let id = found.manifest.id;
        let image = cold
            .memory()
            .ok_or_else(|| Failure::new(Exit::NotFound, format!("snapshot {id} has no memory")))?;
        Ok(Source {
            id,
            image: Arc::new(image),
            refresher: None,
            _kept: Kept::Archived(lease),
        })
    }

    fn options(&self) -> HandlerOptions {
        // The thread of each VM that serves it; no more.
        let serve = ServeOptions::new(0);
        let serve = if self.record {
            serve.window_bytes(PAGE_BYTES)
        } else if self.fill {
            serve.background(Background::default())
        } else {
            serve
        };
        let options = HandlerOptions::new(serve).once(self.once);
        options.finishes(self.fill)
    }

    /// Nothing but what belongs there may be in a store.
    fn check_place(&self, store: &Path) -> Result<(), Failure> {
        let parent = match self.socket.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let failed = |error| Failure::io("look at the place of the socket", parent, &error);
        if lies_in(parent, store).map_err(failed)? {
            let refused = Failure::new(Exit::Refused, "the socket lies in the store");
            return Err(refused.at(&self.socket).hint("choose another place"));
        }
        Ok(())
    }
}

/// Serves until a signal comes or the first VM has ended.
fn attend<'r>(
    context: &Context,
    handler: &PageHandler,
    tally: Tally<'r>,
) -> Result<Tally<'r>, Failure> {
    let tally = Mutex::new(tally);
    let tell = |event: HandlerEvent| {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.take(context, event);
    };
    let (stop, is_over) = (handler.stopper(), AtomicBool::new(false));
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                if context.interrupt.is_set() {
                    return stop.stop();
                }
                thread::park_timeout(LOOK);
            }
        });
        let outcome = handler.run(&tell);
        is_over.store(true, Ordering::Release);
        outcome
    });
    outcome.map_err(|error| told(&error))?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// How often is looked whether the user asked to stop.
const LOOK: Duration = Duration::from_millis(50);

impl Tally<'_> {
    fn take(&mut self, context: &Context, event: HandlerEvent) {
        match event {
            HandlerEvent::Began {
                machine,
                pid,
                pages,
            } => {
                self.served.machines += 1;
                let process = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                context.note(&format!(
                    "VM {machine} of process {process}: {} to serve",
                    counted(pages, "page")
                ));
            }
            HandlerEvent::Refused { machine, error, .. } => {
                self.served.refused += 1;
                let told = Failure::because(Exit::Failed, &error);
                context.note(&format!("VM {machine} was refused: {told}"));
            }
            HandlerEvent::Lost { machine, failure } => {
                let told = Failure::because(Exit::Failed, &failure);
                context.note(&format!("VM {machine}: {told}"));
            }
            HandlerEvent::Ended {
                machine,
                end,
                stats,
                trace,
            } => {
                let served = &mut self.served;
                served.faults += stats.faults;
                served.data_pages += stats.demand_pages + stats.background_pages;
                served.zero_pages += stats.zero_pages;
                served.lost_pages += stats.lost_pages;
                served.left_waiting += u64::from(end == ServiceEnd::Stopped);
                context.note(&format!("VM {machine} ended: {}", end.name()));
                self.refresh(&trace);
            }
            _ => {}
        }
    }

    /// Holds what a VM touched against the working set. The first failure is the answer of the
    /// command; VMs are served all the same.
    fn refresh(&mut self, trace: &FaultTrace) {
        let Some(refresher) = self.refresher.filter(|_| !trace.runs.is_empty()) else {
            return;
        };
        let touched = TouchedPages::of_trace(self.page_count, trace);
        let seen = if trace.left_out == 0 {
            Seen::All
        } else {
            Seen::NotBrought(None)
        };
        let observed = Observed::new(touched, seen);
        match refresher.refresh(&observed) {
            Ok(refreshed) => self.note_refresh(refreshed),
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    fn note_refresh(&mut self, refreshed: Refreshed) {
        let verdict: Verdict = refreshed.change.verdict;
        *self.refreshes.entry(verdict.name()).or_default() += 1;
        if let (Some(generation), Some(written)) = (refreshed.generation, refreshed.written) {
            self.recorded = Some(Recorded {
                verdict: verdict.name(),
                generation,
                file: format!("working-set.{generation}"),
                data_pages: written.data_pages,
                zero_pages: written.zero_pages,
                left_out_pages: written.left_out_pages,
            });
        }
    }
}

/// Reads the whole image, which checks it.
fn check_all(context: &Context, image: &dyn PageSource) -> Result<(), Failure> {
    let (pages, step) = (image.layout().page_count(), 256);
    let progress = context.progress("verify", pages * PAGE_BYTES);
    let mut bytes = vec![0; 256 * 4096];
    for first in (0..pages).step_by(step) {
        context.check_interrupt()?;
        let range = PageRange::new(first, (pages - first).min(step as u64));
        let len = usize::try_from(range.count * PAGE_BYTES).unwrap_or(usize::MAX);
        let out = bytes.get_mut(..len).unwrap_or_default();
        let read = image.read_pages(range, out);
        read.map_err(|error| unreadable(context, error))?;
        progress.add(len as u64);
    }
    Ok(())
}

/// An error of reading what is served, in the words of the command line.
fn unreadable(context: &Context, error: SourceError) -> Failure {
    match error {
        SourceError::Image(error) => context.failure(&error.into()),
        SourceError::Other(error) => match error.downcast::<VaultError>() {
            Ok(error) => Failure::because(exit_of(error.kind()), &*error),
            Err(error) => Failure::because(Exit::Failed, &*error),
        },
        error => Failure::because(Exit::Failed, &error),
    }
}

/// An error of the handler, in the words of the command line.
fn told(error: &HandlerError) -> Failure {
    match error {
        HandlerError::InTheWay(path) => {
            let told = Failure::because(Exit::Exists, error);
            told.concerning(path).hint("choose another path")
        }
        HandlerError::Socket { path, source, .. } => {
            Failure::because(exit_of_io(source.kind()), error).concerning(path)
        }
        error => Failure::because(Exit::Failed, error),
    }
}

fn tell(document: &Document) -> String {
    let served = &document.served;
    let mut text = format!(
        "served snapshot {} to {}: {}, {}, {} of zero",
        short(document.id),
        counted(served.machines, "VM"),
        counted(served.faults, "fault"),
        counted(served.data_pages, "page"),
        counted(served.zero_pages, "page"),
    );
    if let Some(recorded) = &document.recorded {
        text = format!(
            "{text}; recorded a working set of {}; placement {}",
            counted(recorded.data_pages, "page"),
            recorded.generation
        );
    }
    printable(&text)
}
