//! `vmsnap import VM --memory FILE`.

mod inputs;
mod state;

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use snapshot_format::{
    BranchName, DataLayout, LabelKey, LabelValue, Operation, PAGE_BYTES, SnapshotId, SnapshotName,
    Tag, VmName,
};
use snapshot_memory::{
    CaptureOptions, DirtyBitmap, EngineChoice, LayoutChoice, MemoryPlan, MemoryStats, Pages,
    Stability,
};
use snapshot_store::{
    Access, ErrorKind, Location, Metadata, NameTemplate, NewSnapshot, Reference, Selection,
    SnapshotRecord, Store, StoreStage, VerifyOptions,
};

use crate::answer::Answer;
use crate::command::{label, reference, verify};
use crate::context::{Context, memory_failure};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pacing::Pacing;
use crate::quantity::{counted, show_bytes};
use crate::regions::Regions;
use crate::upkeep::Upkeep;
use crate::view::short;
use crate::watched::WatchedMemory;
use inputs::Inputs;

pub(crate) use state::kept;

/// Takes a raw memory file, and the state beside it, as a snapshot.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The virtual machine
    vm: VmName,

    /// The raw memory file
    #[arg(long, value_name = "FILE")]
    memory: PathBuf,

    /// Which guest memory lies where in the file
    #[arg(long, value_name = "GPA:LEN@OFF,…")]
    regions: Option<Regions>,

    /// The machine state: a state.vms, or any file to keep as it is
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// The VMM's configuration of the machine, to keep as it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The pages written since the parent: bit n, little-endian, is page n of the image
    #[arg(long, value_name = "BITMAP", requires = "parent")]
    dirty: Option<PathBuf>,

    /// The snapshot that unchanged pages are inherited from
    #[arg(long, value_name = "REF", value_parser = reference)]
    parent: Option<Reference>,

    /// A name for the snapshot, unique in the VM
    #[arg(long)]
    name: Option<SnapshotName>,

    /// A name with `{vm}`, `{branch}` and `{seq}` in it, which stand for those of the snapshot
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "name")]
    name_template: Option<NameTemplate>,

    /// The branch that it is taken on: the current one of the VM unless said
    #[arg(long)]
    branch: Option<BranchName>,

    /// A label; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = label)]
    label: Vec<(LabelKey, LabelValue)>,

    /// A tag; may be given more than once
    #[arg(long)]
    tag: Vec<Tag>,

    /// How present pages lie in the data file
    #[arg(long, value_enum, default_value = "auto")]
    layout: Layout,

    /// How pages get to the data file
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,

    /// Inherit marked pages that equal the parent's
    #[arg(long)]
    dedup: bool,

    /// Read the snapshot back and check it
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Layout {
    /// What costs less to write here
    Auto,
    /// Each page at its own offset
    Sparse,
    /// Pages back to back
    Packed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Engine {
    /// Direct where the file system takes it, else buffered
    Auto,
    /// In vectors, through the page cache; sparse data only
    Vectored,
    /// In large buffers, through the page cache
    Buffered,
    /// In large buffers, past the page cache
    Direct,
}

#[derive(Serialize)]
struct Imported {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    vm: String,
    seq: u64,
    name: Option<String>,
    pages: PageNumbers,
    bytes_stored: u64,
    layout: &'static str,
    engine: &'static str,
    verified: bool,
    #[serde(flatten)]
    upkeep: Upkeep,
}

#[derive(Serialize)]
struct PageNumbers {
    present: u64,
    zero: u64,
    inherited: u64,
    total: u64,
}

impl Import {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        // Before a store is made: bad input must leave nothing behind.
        let inputs = Inputs::open(self)?;
        let store = match &self.parent {
            None => context.open_or_create()?,
            Some(_) => context.open(Access::ReadWrite)?,
        };
        let parent = self
            .parent
            .as_ref()
            .map(|reference| parent(context, &store, reference, &inputs))
            .transpose()?;
        let (id, stats) = self.write(context, &store, &inputs, parent.as_ref())?;
        let imported = self.report(context, &store, id, stats)?;
        context.answer("vmsnap.import.v1", &imported, tell)
    }

    /// Writes and publishes the snapshot.
    fn write(
        &self,
        context: &Context,
        store: &Store,
        inputs: &Inputs,
        parent: Option<&SnapshotRecord>,
    ) -> Result<(SnapshotId, MemoryStats), Failure> {
        let dirty = match parent {
            None => None,
            Some(parent) => Some(self.changed(context, store, inputs, parent)?),
        };
        let progress = context.progress("import", inputs.taken_bytes(dirty.as_ref()));
        let capture = CaptureOptions::default()
            .layout(self.layout.into())
            .engine(self.engine.into())
            .threads(CaptureOptions::best_threads())
            .control(self.pacing.control(progress));
        let failed = |error| context.import_failure(&error, &self.memory);
        let new = self.new_snapshot(store, inputs, parent);
        let sink = store.sink(new.capture(capture));
        let mut stage = sink.stage().map_err(failed)?;
        for section in &inputs.sections {
            stage.section(section.clone());
        }
        let pages = match (parent, &dirty) {
            (Some(parent), Some(dirty)) => Pages::Since {
                base: parent.reference(),
                dirty,
            },
            _ => Pages::Full,
        };
        self.prepare(context, &mut stage, inputs, pages)?;
        // Somebody may still write the file: what is digested must be what is written.
        let stats = stage
            .memory(&inputs.memory, pages, Stability::Running)
            .map_err(failed)?;
        context.check_interrupt()?;
        let sealed = stage.seal().map_err(failed)?;
        let published = sealed.publish().map_err(failed)?;
        Ok((published.snapshot.id, stats))
    }

    /// Refuses a snapshot that there is no room for, before anything of it is written.
    fn prepare(
        &self,
        context: &Context,
        stage: &mut StoreStage,
        inputs: &Inputs,
        pages: Pages<'_>,
    ) -> Result<(), Failure> {
        let (base, dirty) = match pages {
            Pages::Since { base, dirty } => (Some(base), Some(dirty)),
            _ => (None, None),
        };
        let cancel = context.interrupt.cancel();
        let plan = |bytes| MemoryPlan {
            layout: inputs.layout(),
            base,
            bytes,
            cancel: &cancel,
        };
        let mut prepared = stage.prepare(plan(inputs.stored_bytes(dirty)));
        if matches!(&prepared, Err(error) if error.kind() == ErrorKind::NoSpace) {
            // Zero pages take none. Where room is short, it is worth a look at every page.
            let bytes = self.bytes_not_zero(context, inputs, dirty)?;
            prepared = stage.prepare(plan(bytes));
        }
        prepared.map_err(|error| context.import_failure(&error, &self.memory))
    }

    /// Bytes of the pages in `dirty`, or of all, that are not zero.
    fn bytes_not_zero(
        &self,
        context: &Context,
        inputs: &Inputs,
        dirty: Option<&DirtyBitmap>,
    ) -> Result<u64, Failure> {
        let progress = context.progress("measure", inputs.taken_bytes(dirty));
        let mut pace = self.pacing.start(context);
        let counted = inputs.bytes_not_zero(dirty, &mut |bytes| {
            progress.add(bytes);
            match pace.spend(bytes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        context.check_interrupt()?;
        counted.map_err(|error| memory_failure(&error, &self.memory))
    }

    /// The pages to take.
    fn changed(
        &self,
        context: &Context,
        store: &Store,
        inputs: &Inputs,
        parent: &SnapshotRecord,
    ) -> Result<DirtyBitmap, Failure> {
        let marked = match &inputs.dirty {
            Some(marked) if !self.dedup => return Ok(marked.clone()),
            marked => marked.as_ref(),
        };
        let stored = store
            .image_to(Operation::Extend, parent.id)
            .map_err(|error| context.failure(&error))?;
        let progress = context.progress("compare", inputs.taken_bytes(marked));
        let memory = WatchedMemory::new(&inputs.memory, &progress, self.pacing.start(context));
        stored
            .image()
            .differing_pages(&memory, marked)
            .map_err(|error| context.compare_failure(error, &self.memory))
    }

    fn new_snapshot(
        &self,
        store: &Store,
        inputs: &Inputs,
        parent: Option<&SnapshotRecord>,
    ) -> NewSnapshot {
        let mut metadata = Metadata::default();
        metadata.name.clone_from(&self.name);
        metadata.labels = self.label.iter().cloned().collect();
        metadata.tags = self.tag.iter().cloned().collect();
        let branch = self.branch.clone();
        let mut new = NewSnapshot::of(self.vm.clone())
            .branch(branch.unwrap_or_else(|| store.branch_for_next(&self.vm)))
            .parent(parent.map(SnapshotRecord::reference))
            .metadata(metadata)
            .config(inputs.config.clone());
        new.name_template.clone_from(&self.name_template);
        new
    }

    fn report(
        &self,
        context: &Context,
        store: &Store,
        id: SnapshotId,
        stats: MemoryStats,
    ) -> Result<Imported, Failure> {
        let failed = |error| context.failure(&error);
        let record = store.snapshot(id).map_err(failed)?;
        let bytes_stored = store.allocated_bytes(Location::Live, id).map_err(failed)?;
        let control = || self.pacing.control(context.progress("consolidate", 0));
        let upkeep = Upkeep::after(context, store, id, control);
        if self.verify {
            let report = verify::check(
                context,
                store,
                &VerifyOptions::of(Selection::One(id)),
                self.pacing,
            )?;
            if let Some(problem) = report.errors.first() {
                return Err(Failure::new(Exit::Corrupt, problem.message.clone())
                    .at_offset(problem.offset)
                    .hint(problem.hint));
            }
        }
        Ok(Imported {
            id,
            parent: record.parent.map(|parent| parent.id),
            vm: record.vm.to_string(),
            seq: record.seq,
            name: record.metadata.name.as_ref().map(ToString::to_string),
            pages: PageNumbers {
                present: stats.present,
                zero: stats.zero,
                inherited: stats.inherited,
                total: record.layout.page_count(),
            },
            bytes_stored,
            layout: layout_name(stats.layout),
            engine: stats.engine.name(),
            verified: self.verify,
            upkeep,
        })
    }
}

impl From<Layout> for LayoutChoice {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Auto => Self::Auto,
            Layout::Sparse => Self::Sparse,
            Layout::Packed => Self::Packed,
        }
    }
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Vectored => Self::Vectored,
            Engine::Buffered => Self::Buffered,
            Engine::Direct => Self::Direct,
        }
    }
}

/// The word for a layout that was used.
pub(crate) fn layout_name(layout: Option<DataLayout>) -> &'static str {
    match layout {
        Some(DataLayout::Packed) => "packed",
        _ => "sparse",
    }
}

/// The parent, which must have the same memory.
fn parent(
    context: &Context,
    store: &Store,
    reference: &Reference,
    inputs: &Inputs,
) -> Result<SnapshotRecord, Failure> {
    let id = context.resolve(store, reference)?;
    let record = store
        .snapshot(id)
        .map_err(|error| context.failure(&error))?;
    if record.layout != *inputs.layout() {
        return Err(Failure::new(
            Exit::Incompatible,
            format!(
                "parent {id} has {} of memory in {}, the file has {} in {}, or they lie elsewhere",
                show_bytes(record.layout.len_bytes()),
                counted(record.layout.regions().len() as u64, "region"),
                show_bytes(inputs.layout().len_bytes()),
                counted(inputs.layout().regions().len() as u64, "region"),
            ),
        )
        .hint("name another parent, or import a full snapshot"));
    }
    Ok(record)
}

fn tell(imported: &Imported) -> String {
    let pages = &imported.pages;
    format!(
        "imported {} as number {} of {}: {} present, {} zero, {} inherited of {} pages ({}), {} on disk, {}{}{}",
        imported.id,
        imported.seq,
        imported.vm,
        pages.present,
        pages.zero,
        pages.inherited,
        pages.total,
        show_bytes(pages.total.saturating_mul(PAGE_BYTES)),
        show_bytes(imported.bytes_stored),
        imported.layout,
        imported.parent.map_or_else(String::new, |parent| format!(
            ", relative to {}",
            short(parent)
        )),
        imported.upkeep.tell(),
    )
}
