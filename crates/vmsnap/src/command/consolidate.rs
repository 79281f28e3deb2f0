//! `vmsnap consolidate REF`.

use clap::{Args, ValueEnum};
use serde::Serialize;
use snapshot_format::{DataLayout, SnapshotId};
use snapshot_memory::{ChainLimits, ConsolidateOptions, Fragmentation, RelayoutOptions};
use snapshot_store::{Access, ConsolidationReport, KeptFiles, Reference, Store};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::Failure;
use crate::pacing::Pacing;
use crate::quantity::{counted, show_bytes};
use crate::view::short;

/// Merges data files that a snapshot needs into one of its own; what it holds stays the same.
#[derive(Args, Debug)]
pub(crate) struct Consolidate {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Only if it needs more than N data files, or wastes too much; the first ones stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_files: Option<u16>,

    /// Hundredths of the stored pages that may belong to none of its memory
    #[arg(long, value_name = "PERCENT", requires = "max_files",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    max_wasted: Option<u8>,

    /// Also those that it descends from, the oldest first
    #[arg(long)]
    chain: bool,

    /// Runs that 64 MiB of memory may fall into before gaps are copied, too
    #[arg(long, value_name = "N", default_value = "1024",
          value_parser = clap::value_parser!(u16).range(1..=16384))]
    max_runs: u16,

    /// Pages that may be copied for that, in hundredths of those that must be
    #[arg(long, value_name = "PERCENT", default_value = "25",
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    max_extra: u32,

    /// Each page at its offset in the image, which can be mapped, or back to back
    #[arg(long, value_enum, default_value = "sparse")]
    layout: Layout,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Layout {
    Sparse,
    Packed,
}

#[derive(Serialize)]
struct Consolidated {
    snapshots: Vec<ConsolidationReport>,
}

impl Consolidate {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let last = context.resolve(&store, &self.reference)?;
        self.pacing.begin()?;
        let kept = if self.max_files.is_some() {
            KeptFiles::ByLimits
        } else {
            KeptFiles::None
        };
        let mut consolidated = Consolidated {
            snapshots: Vec::new(),
        };
        for id in self.targets(context, &store, last)? {
            context.check_interrupt()?;
            let options = self.options(context);
            let report = store.consolidate(id, kept, &options);
            let report = report.map_err(|error| context.failure(&error))?;
            consolidated.snapshots.push(report);
        }
        context.answer("vmsnap.consolidate.v1", &consolidated, tell)
    }

    /// The snapshots to consolidate, ancestors first.
    fn targets(
        &self,
        context: &Context,
        store: &Store,
        last: SnapshotId,
    ) -> Result<Vec<SnapshotId>, Failure> {
        let mut targets = vec![last];
        if !self.chain {
            return Ok(targets);
        }
        let listing = store.list(None);
        let records = listing.map_err(|error| context.failure(&error))?.snapshots;
        let find = |id: SnapshotId| records.iter().find(|record| record.id == id);
        let mut next = find(last).and_then(|record| record.parent);
        // A deleted ancestor ends the chain of those that are in use.
        while let Some(parent) = next.and_then(|parent| find(parent.id)) {
            if targets.contains(&parent.id) {
                break;
            }
            targets.push(parent.id);
            next = parent.parent;
        }
        targets.reverse();
        Ok(targets)
    }

    fn options(&self, context: &Context) -> ConsolidateOptions {
        let layout = match self.layout {
            Layout::Sparse => DataLayout::Sparse,
            Layout::Packed => DataLayout::Packed,
        };
        let control = self.pacing.control(context.progress("consolidate", 0));
        let control = control.cancel(context.interrupt.cancel());
        let mut limits = ChainLimits::default();
        if let Some(max_files) = self.max_files {
            limits = limits.max_files(usize::from(max_files));
        }
        if let Some(percent) = self.max_wasted {
            limits = limits.max_wasted_percent(percent);
        }
        let fragmentation = Fragmentation::default()
            .max_runs(usize::from(self.max_runs))
            .max_extra_percent(self.max_extra);
        ConsolidateOptions::default()
            .limits(limits)
            .fragmentation(fragmentation)
            .relayout(RelayoutOptions::of(layout).control(control))
    }
}

fn tell(consolidated: &Consolidated) -> String {
    let lines = consolidated.snapshots.iter().map(|one| {
        let id = short(one.id);
        let files = counted(one.files_before as u64, "data file");
        if !one.changed {
            return format!("nothing to do: snapshot {id} needs {files}\n");
        }
        format!(
            "snapshot {id} needed {files}, and needs {}: {} copied to {}, {}\n",
            one.files_after,
            counted(one.copied_pages, "page"),
            one.file,
            show_bytes(one.allocated_bytes)
        )
    });
    lines.collect()
}
