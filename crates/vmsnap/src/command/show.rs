//! `vmsnap show REF`.

use clap::Args;
use serde::Serialize;
use snapshot_format::{Digest, MemoryRegion, SnapshotId};
use snapshot_store::{Access, Location, Reference};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::show_bytes;
use crate::view::SnapshotView;

/// Shows all that is known of a snapshot without reading its memory.
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    snapshot: SnapshotView,
    digest: Digest,
    regions: Vec<MemoryRegion>,
    generation: u32,
    files: Vec<FileView>,
    dependencies: Vec<SnapshotId>,
    bytes_stored: u64,
    config_bytes: u64,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct FileView {
    name: String,
    len_bytes: u64,
    digest: Digest,
}

impl Show {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let id = context.resolve(&store, &self.reference)?;
        let failed = |error| context.failure(&error);
        let detail = store.detail(id).map_err(failed)?;
        let manifest = store.manifest(id).map_err(failed)?;
        let files = detail.files.iter().map(|file| FileView {
            name: file.kind.file_name(file.index),
            len_bytes: file.len_bytes,
            digest: file.digest,
        });
        let shown = Shown {
            snapshot: SnapshotView::from(&detail.record),
            digest: detail.record.digest,
            regions: detail.record.layout.regions().to_vec(),
            generation: detail.generation,
            files: files.collect(),
            dependencies: detail
                .dependencies
                .iter()
                .map(|data| data.snapshot)
                .collect(),
            bytes_stored: store.allocated_bytes(Location::Live, id).map_err(failed)?,
            config_bytes: manifest.vm_config.len() as u64,
            problems: detail.problems,
        };
        context.answer("vmsnap.show.v1", &shown, tell)
    }
}

fn tell(shown: &Shown) -> String {
    let one = &shown.snapshot;
    let mut lines = vec![
        format!("{}  {}", one.title(), one.id),
        format!("  digest       {}", shown.digest),
        format!("  branch       {}, number {}", one.branch, one.seq),
        format!("  created      {}", one.local_time()),
    ];
    if let Some(parent) = one.parent {
        lines.push(format!("  parent       {parent}"));
    }
    for region in &shown.regions {
        let size = show_bytes(region.len_bytes);
        lines.push(format!("  memory       {size} at {}", region.start));
    }
    lines.push(format!("  on disk      {}", show_bytes(shown.bytes_stored)));
    if shown.config_bytes > 0 {
        lines.push(format!("  config       {}", show_bytes(shown.config_bytes)));
    }
    if !one.marks().is_empty() {
        lines.push(format!("  marks        {}", one.marks()));
    }
    if !one.description.is_empty() {
        lines.push(format!("  description  {}", one.description));
    }
    for file in &shown.files {
        let size = show_bytes(file.len_bytes);
        lines.push(format!("  file         {}, {size}", file.name));
    }
    for data in shown.dependencies.iter().filter(|&&data| data != one.id) {
        lines.push(format!("  needs        {data}"));
    }
    for problem in shown.problems.iter().chain(&one.metadata_problem) {
        lines.push(format!("  problem      {problem}"));
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}
