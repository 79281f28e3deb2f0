//! `vmsnap map REF [--plan]`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use snapshot_format::{Operation, PageRange, SnapshotId};
use snapshot_memory::{
    MAX_MAPPINGS, MapSummary, MappingCount, MemoryImage, RawImageFacts, WorkingSet,
};
use snapshot_store::{Access, ErrorKind, Picture, Reference, Store};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::{counted, show_bytes};
use crate::view::SnapshotView;
use crate::{output_file, picture, table};

mod plan;

/// Shows in which files the memory of a snapshot lies, or how it would be brought back.
#[derive(Args, Debug)]
pub(crate) struct Map {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Show the plan of a restore: the way, when pages are checked, and why no other way
    #[arg(long)]
    plan: bool,

    /// Draw the memory to this file as well
    #[arg(long, value_name = "FILE", conflicts_with = "plan")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    options: plan::Options,
}

#[derive(Serialize)]
struct Mapped {
    id: SnapshotId,
    #[serde(flatten)]
    summary: MapSummary,
}

impl Map {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        if !self.plan && self.options.are_given() {
            let refused = Failure::usage("the options of a plan are given without --plan");
            return Err(refused.hint("add --plan, or leave them out"));
        }
        let store = context.open(Access::Auto)?;
        let id = context.resolve(&store, &self.reference)?;
        let failed = |error| context.failure(&error);
        let operation = if self.plan {
            Operation::Restore
        } else {
            Operation::Read
        };
        let stored = store.image_to(operation, id).map_err(failed)?;
        if self.plan {
            let working_set = store.working_set(id).map_err(failed)?;
            let working_set = working_set.map(|found| found.entry().len_bytes);
            let raw = match store.cached_image(id) {
                // It is not needed: the plan does without, and verify tells of it.
                Err(error) if error.kind() == ErrorKind::Corrupt => None,
                found => found.map_err(failed)?,
            };
            let raw = raw.map(|raw| {
                let facts = RawImageFacts::of(raw.file());
                let path = context.store_path()?.join(raw.path().as_str());
                facts.map_err(|error| Failure::io("look at the raw image", &path, &error))
            });
            let known = plan::Known {
                working_set_bytes: working_set,
                raw_image: raw.transpose()?,
            };
            return self.options.answer(context, id, &stored, known);
        }
        let summary = MapSummary::of(stored.image());
        let summary = summary.map_err(|error| context.failure(&error.into()))?;
        let touched = touched(&store, id, stored.image());
        let picture = |cells| {
            let picture = Picture::of(stored.image(), touched.iter().copied(), cells);
            picture.map_err(|error| context.failure(&error.into()))
        };
        if let Some(path) = &self.svg {
            let title = SnapshotView::from(&store.snapshot(id).map_err(failed)?).title();
            let drawn = picture::svg(&picture(picture::FILE_CELLS)?, &title);
            output_file::write(path, context.store_path()?, drawn.as_bytes())?;
        }
        let drawn = if context.json {
            String::new()
        } else {
            picture::draw(&picture(picture::TERMINAL_CELLS)?)
        };
        context.answer("vmsnap.map.v1", &Mapped { id, summary }, |mapped| {
            format!("{}\n{drawn}", tell(mapped))
        })
    }
}

/// The pages that the working set names; none where there is none, or none that can be read.
fn touched(store: &Store, id: SnapshotId, image: &MemoryImage) -> Vec<PageRange> {
    let read = || {
        let stored = store.working_set(id).ok()??;
        let reference = store.snapshot(id).ok()?.reference();
        let (file, _lease) = stored.into_parts();
        let opened = WorkingSet::from_file(file, reference, image.layout()).ok()?;
        let runs = opened.index().runs.iter();
        Some(runs.map(|run| run.pages).collect())
    };
    read().unwrap_or_default()
}

fn tell(mapped: &Mapped) -> String {
    let summary = &mapped.summary;
    let mut files = table::table(&["FILE", "LAYOUT", ">PAGES", ">RUNS"]);
    for file in &summary.files {
        files.add_row([
            printable(&file.name),
            file.layout.to_owned(),
            file.pages.to_string(),
            file.runs.to_string(),
        ]);
    }
    let mut regions = table::table(&["REGION", ">SIZE", ">ZERO PAGES", ">RUNS"]);
    for region in &summary.regions {
        regions.add_row([
            format!("{:#x}", region.start.0),
            show_bytes(region.pages * snapshot_format::PAGE_BYTES),
            region.zero_pages.to_string(),
            region.runs.to_string(),
        ]);
    }
    let mappings = match summary.mappings {
        MappingCount::Counted { mappings } => {
            format!("can be mapped in {}", counted(mappings, "mapping"))
        }
        MappingCount::TooMany => {
            format!("cannot be mapped: it would take more than {MAX_MAPPINGS} mappings")
        }
        MappingCount::Compressed { .. } => "cannot be mapped: pages are compressed".to_owned(),
        MappingCount::NotCounted => "was not looked at".to_owned(),
    };
    format!(
        "{}\n{}\n{}, {} zero; {mappings}\n",
        table::draw(&regions),
        table::draw(&files),
        counted(summary.pages, "page"),
        summary.zero_pages
    )
}
