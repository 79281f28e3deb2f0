//! `vmsnap working-set show|record|drop REF`.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use snapshot_format::{
    DecodeError, Operation, PageRange, SnapshotId, WorkingSetOrigin, WorkingSetRun, WorkingSetView,
};
use snapshot_memory::{
    SourceError, TouchedPages, WorkingSet, WorkingSetError, WorkingSetOptions, WrittenWorkingSet,
    write_working_set,
};
use snapshot_store::{Access, Reference, Store, StoreError, WorkingSetReport};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, exit_of_io, printable};
use crate::input::{InputFile, read_file};
use crate::quantity::{counted, parse_bytes, show_bytes};
use crate::view::short;

/// The pages that a guest touches first, kept with their bytes so that a restore reads them at once.
#[derive(Args, Debug)]
pub(crate) struct WorkingSetCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show how many pages there are, and how they became known
    Show(Show),
    /// Write a working set; it takes the place of the one from before
    Record(Record),
    /// Take the working set away
    Drop(Drop),
}

#[derive(Args, Debug)]
struct Show {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Name every run of pages, in the order in which they are brought back
    #[arg(long)]
    runs: bool,

    /// Read all of it and compare every page with the snapshot
    #[arg(long)]
    check: bool,
}

#[derive(Args, Debug)]
struct Record {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    #[command(flatten)]
    touched: Touched,

    /// The most bytes of pages that it may hold
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_bytes)]
    max: u64,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Touched {
    /// A file of lines PAGE or FIRST-LAST, pages of the image in the order in which they were touched
    #[arg(long, value_name = "FILE")]
    pages: Option<PathBuf>,

    /// A raw image of the snapshot that a guest has run on, cold before: its pages in the page cache
    #[arg(long, value_name = "FILE")]
    resident: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Drop {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,
}

#[derive(Serialize)]
struct Shown {
    id: SnapshotId,
    file: String,
    len_bytes: u64,
    #[serde(flatten)]
    view: WorkingSetView,
    checked: bool,
    listed: Option<Vec<WorkingSetRun>>,
}

#[derive(Serialize)]
struct Recorded {
    #[serde(flatten)]
    report: WorkingSetReport,
    origin: WorkingSetOrigin,
    data_pages: u64,
    zero_pages: u64,
    left_out_pages: u64,
}

impl WorkingSetCommand {
    /// Whether the store is changed.
    pub(crate) fn changes(&self) -> bool {
        !matches!(self.what, What::Show(_))
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match &self.what {
            What::Show(show) => show.run(context),
            What::Record(record) => record.run(context),
            What::Drop(drop) => drop.run(context),
        }
    }
}

impl Show {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let id = context.resolve(&store, &self.reference)?;
        let failed = |error| context.failure(&error);
        let detail = store.detail(id).map_err(failed)?;
        let stored = store.working_set(id).map_err(failed)?;
        let stored = stored.ok_or_else(|| missing(id))?;
        let (file, len_bytes) = (stored.entry().file_name(), stored.entry().len_bytes);
        // The lease keeps the snapshot until the end.
        let (open, _lease) = stored.into_parts();
        let set = WorkingSet::from_file(open, detail.record.reference(), &detail.record.layout);
        let mut set = set.map_err(|error| told(context, error))?;
        if self.check {
            let image = store.image_to(Operation::Read, id).map_err(failed)?;
            let compared = set.compare(image.image(), &mut |_| match context.check_interrupt() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
            compared.map_err(|error| told(context, error))?;
        }
        let shown = Shown {
            id,
            file,
            len_bytes,
            view: set.view(),
            checked: self.check,
            listed: self.runs.then(|| set.index().runs.clone()),
        };
        context.answer("vmsnap.working-set.v1", &shown, tell)
    }
}

impl Record {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let failed = |error| context.failure(&error);
        let detail = store.detail(id).map_err(failed)?;
        let page_count = detail.record.layout.page_count();
        let touched = self.touched.read(page_count)?;
        context.check_interrupt()?;
        let (report, written) = self.write(context, &store, id, &touched)?;
        let recorded = Recorded {
            report,
            origin: touched.origin(),
            data_pages: written.data_pages,
            zero_pages: written.zero_pages,
            left_out_pages: written.left_out_pages,
        };
        context.answer("vmsnap.working-set-record.v1", &recorded, tell_recorded)
    }

    fn write(
        &self,
        context: &Context,
        store: &Store,
        id: SnapshotId,
        touched: &TouchedPages,
    ) -> Result<(WorkingSetReport, WrittenWorkingSet), Failure> {
        let failed = |error: StoreError| context.failure(&error);
        let image = store.image_to(Operation::Rewrite, id).map_err(failed)?;
        let reference = store.detail(id).map_err(failed)?.record.reference();
        let options = WorkingSetOptions::default().max_bytes(self.max);
        let mut stage = store.stage_working_set(id).map_err(failed)?;
        let most = self.max.min(touched.pages().saturating_mul(4096));
        stage.require_room(most).map_err(failed)?;
        let written = write_working_set(image.image(), reference, touched, &options, stage.file());
        let written = written.map_err(|error| told(context, error))?;
        context.check_interrupt()?;
        let report = stage.publish().map_err(failed)?;
        Ok((report, written))
    }
}

impl Touched {
    fn read(&self, page_count: u64) -> Result<TouchedPages, Failure> {
        match (&self.pages, &self.resident) {
            (Some(list), _) => listed(list, page_count),
            (None, Some(image)) => resident(image, page_count),
            (None, None) => Err(Failure::usage("say which pages: --pages or --resident")),
        }
    }
}

impl Drop {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let dropped = store.drop_working_set(id);
        let dropped = dropped.map_err(|error| context.failure(&error))?;
        let report = dropped.ok_or_else(|| missing(id))?;
        context.answer("vmsnap.working-set-drop.v1", &report, |report| {
            let id = short(report.id);
            format!(
                "dropped the working set of snapshot {id}; placement {}",
                report.generation
            )
        })
    }
}

/// The pages of a list, each line one run.
fn listed(path: &Path, page_count: u64) -> Result<TouchedPages, Failure> {
    let bytes = read_file("list of pages", path, MAX_LIST_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut touched = TouchedPages::new(page_count, WorkingSetOrigin::Named);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pages = run(line).filter(|pages| pages.end().0 <= page_count);
        let pages = pages.ok_or_else(|| {
            let line = printable(line);
            let message = format!("line {number}: {line:?} names no pages of the {page_count}");
            Failure::usage(message)
                .at(path)
                .hint("write PAGE or FIRST-LAST, pages of 4096 bytes counted from 0")
        })?;
        touched.add(pages);
    }
    Ok(touched)
}

/// `PAGE` or `FIRST-LAST`.
fn run(line: &str) -> Option<PageRange> {
    let (first, last) = line.split_once('-').unwrap_or((line, line));
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let count = last.checked_sub(first)?.checked_add(1)?;
    first.checked_add(count)?;
    Some(PageRange::new(first, count))
}

#[cfg(target_os = "linux")]
fn resident(path: &Path, page_count: u64) -> Result<TouchedPages, Failure> {
    let input = InputFile::open("raw image", path)?;
    let touched = TouchedPages::resident_in(&input, page_count);
    touched.map_err(|error| match error {
        WorkingSetError::PageCount { .. } => Failure::because(Exit::Usage, &error).at(path),
        error => Failure::because(Exit::Failed, &error).at(path),
    })
}

#[cfg(not(target_os = "linux"))]
fn resident(path: &Path, _page_count: u64) -> Result<TouchedPages, Failure> {
    let message = "the page cache is asked on Linux only; name the pages with --pages";
    Err(Failure::new(Exit::Unsupported, message).at(path))
}

/// An error of a working set, in the words of the command line.
fn told(context: &Context, error: WorkingSetError) -> Failure {
    let exit = match &error {
        WorkingSetError::Source(SourceError::Image(_)) => {
            let WorkingSetError::Source(SourceError::Image(source)) = error else {
                return Failure::because(Exit::Failed, &error);
            };
            return context.failure(&source.into());
        }
        WorkingSetError::Damaged { source, .. } => exit_of_decode(source),
        WorkingSetError::OtherSnapshot { .. }
        | WorkingSetError::PageCount { .. }
        | WorkingSetError::Differs { .. } => Exit::Corrupt,
        WorkingSetError::Empty => Exit::Usage,
        WorkingSetError::Cancelled => Exit::Interrupted,
        WorkingSetError::File { source, .. } => exit_of_io(source.kind()),
        WorkingSetError::Write(error) => exit_of_io(error.source.kind()),
        _ => Exit::Failed,
    };
    Failure::because(exit, &error)
}

fn exit_of_decode(error: &DecodeError) -> Exit {
    match error.kind() {
        snapshot_format::ErrorKind::TooNew => Exit::TooNew,
        snapshot_format::ErrorKind::Unsupported => Exit::Unsupported,
        _ => Exit::Corrupt,
    }
}

fn missing(id: SnapshotId) -> Failure {
    let message = format!("snapshot {} has no working set", short(id));
    Failure::new(Exit::NotFound, message).hint("record one with `vmsnap working-set record`")
}

fn tell(shown: &Shown) -> String {
    let view = &shown.view;
    let mut text = format!(
        "{} of snapshot {}: {} in {}, {} zero, {}{}\n",
        shown.file,
        short(shown.id),
        counted(view.data_pages + view.zero_pages, "page"),
        counted(view.runs as u64, "run"),
        view.zero_pages,
        origin(view.origin),
        if shown.checked {
            ", all as in the snapshot"
        } else {
            ""
        },
    );
    for run in shown.listed.iter().flatten() {
        let last = run.pages.end().0.saturating_sub(1);
        let zero = if run.is_zero { " zero" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}-{last}{zero}", run.pages.start.0);
    }
    text
}

fn tell_recorded(recorded: &Recorded) -> String {
    let report = &recorded.report;
    let left_out = match recorded.left_out_pages {
        0 => String::new(),
        pages => format!("; {} left out", counted(pages, "page")),
    };
    format!(
        "recorded {} of snapshot {}: {} and {} zero in {}{left_out}; placement {}",
        report.file.as_deref().unwrap_or("nothing"),
        short(report.id),
        counted(recorded.data_pages, "page"),
        recorded.zero_pages,
        show_bytes(report.len_bytes),
        report.generation,
    )
}

fn origin(origin: WorkingSetOrigin) -> &'static str {
    match origin {
        WorkingSetOrigin::Trace => "in the order of a trace",
        WorkingSetOrigin::Resident => "found in the page cache",
        WorkingSetOrigin::Present => "found present",
        _ => "as they were named",
    }
}

/// Bytes of a list of pages: more runs than a working set may hold.
const MAX_LIST_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-48
    #[test]
    fn a_line_is_a_page_or_a_run() {
        assert_eq!(run("7"), Some(PageRange::new(7, 1)));
        assert_eq!(run("7 - 9"), Some(PageRange::new(7, 3)));
        for line in ["", "x", "9-7", "-3", "1-2-3", "0-18446744073709551615"] {
            assert_eq!(run(line), None, "{line:?}");
        }
    }
}
