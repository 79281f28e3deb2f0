//! `vmsnap merge` and `recreate`.

use clap::{Args, ValueEnum};
use serde::Serialize;
use snapshot_format::{BranchName, Description, SnapshotId, SnapshotName, VmName};
use snapshot_memory::CaptureControl;
use snapshot_store::{Access, ErrorKind, Giver, Merge, MergeReport, Metadata, Reference, Store};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::upkeep::Upkeep;
use crate::view::short;

/// Puts the state of one branch onto another, as a new snapshot.
#[derive(Args, Debug)]
pub(crate) struct MergeCommand {
    /// The virtual machine
    vm: VmName,

    /// What is merged: a branch of the VM, or a REF
    source: String,

    /// The branch that it is merged onto
    #[arg(long, value_name = "BRANCH")]
    onto: BranchName,

    /// Which side gives memory, machine state and configuration, always all of them
    #[arg(long, value_enum, default_value = "source")]
    memory: Memory,

    /// A name for the new snapshot, unique in the VM
    #[arg(long)]
    name: Option<SnapshotName>,

    /// What it is
    #[arg(long, value_name = "TEXT")]
    description: Option<Description>,
}

/// Makes a snapshot anew, in the place of one that is lost or damaged.
#[derive(Args, Debug)]
pub(crate) struct Recreate {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// With the memory and the state of its parent
    #[arg(long, required = true)]
    from_parent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Memory {
    /// What is merged
    Source,
    /// What it is merged onto
    Target,
    /// Page by page from both, which is refused
    Pages,
}

#[derive(Serialize)]
struct Merged {
    #[serde(flatten)]
    report: MergeReport,
    #[serde(flatten)]
    upkeep: Upkeep,
}

impl MergeCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let giver = match self.memory {
            Memory::Source => Giver::Source,
            Memory::Target => Giver::Target,
            Memory::Pages => return Err(no_page_merge()),
        };
        let store = context.open(Access::ReadWrite)?;
        let metadata = Metadata {
            name: self.name.clone(),
            description: self.description.clone().unwrap_or_default(),
            ..Metadata::default()
        };
        let source = self.source(context, &store)?;
        let merge = Merge::of(self.vm.clone(), source, self.onto.clone());
        let report = store.merge(&merge.giver(giver).metadata(metadata));
        let report = report.map_err(|error| context.failure(&error))?;
        let upkeep = Upkeep::after(context, &store, report.id, CaptureControl::default);
        context.answer("vmsnap.merge.v1", &Merged { report, upkeep }, |merged| {
            let report = &merged.report;
            format!(
                "merged onto branch {} of {} as {}: all of {}, nothing of {}{}",
                report.branch,
                report.vm,
                report.id,
                short(report.giver),
                short(report.merged),
                merged.upkeep.tell()
            )
        })
    }

    /// The head of the branch of this name, or else the snapshot.
    fn source(&self, context: &Context, store: &Store) -> Result<SnapshotId, Failure> {
        if let Ok(name) = BranchName::new(self.source.as_str()) {
            match store.branch(&self.vm, &name) {
                Ok(branch) => {
                    let missing = || {
                        let message = format!("branch {} has no head to merge", branch.name);
                        Failure::new(Exit::NotFound, message)
                    };
                    return branch.head.ok_or_else(missing);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(context.failure(&error)),
            }
        }
        if let Ok(reference) = self.source.parse() {
            return context.resolve(store, &reference);
        }
        let message = format!(
            "{} has no branch {:?}, and no REF is it",
            self.vm, self.source
        );
        Err(Failure::new(Exit::NotFound, message).hint("see `vmsnap branches`"))
    }
}

impl Recreate {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let report = store.recreate_from_parent(id);
        let report = report.map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.recreate.v1", &report, |report| {
            format!(
                "made {} from {}; {} is in the trash",
                report.id,
                short(report.parent),
                short(report.replaced)
            )
        })
    }
}

fn no_page_merge() -> Failure {
    let reason = "two memories cannot be mixed: their pages point into each other, and registers \
                  point into them";
    Failure::new(Exit::Refused, reason).hint("choose the side that gives all of it")
}
