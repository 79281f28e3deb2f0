//! `vmsnap branch`, `branches` and `switch`.

use clap::Args;
use serde::Serialize;
use snapshot_format::{BranchName, VmName};
use snapshot_store::{Access, BranchRecord, Reference, Store, StoreError};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{draw, table};
use crate::view::short;

/// Makes a branch that starts at a snapshot, or takes one away that has none.
#[derive(Args, Debug)]
pub(crate) struct Branch {
    /// The virtual machine
    vm: VmName,

    /// The name of the branch
    name: BranchName,

    /// Where it starts: the head of the current branch, or of `main`, unless said
    #[arg(long, value_name = "REF", value_parser = reference)]
    from: Option<Reference>,

    /// Take the branch away
    #[arg(long, conflicts_with = "from")]
    remove: bool,
}

/// Lists the branches of a virtual machine.
#[derive(Args, Debug)]
pub(crate) struct Branches {
    /// The virtual machine
    vm: VmName,
}

/// Says which branch a virtual machine is on.
#[derive(Args, Debug)]
pub(crate) struct Switch {
    /// The virtual machine
    vm: VmName,

    /// The branch
    #[arg(required_unless_present = "none")]
    branch: Option<BranchName>,

    /// It is on none: snapshots are taken on `main`, and no head is kept for it
    #[arg(long, conflicts_with = "branch")]
    none: bool,
}

#[derive(Serialize)]
struct Branched {
    vm: VmName,
    removed: bool,
    branch: BranchRecord,
}

#[derive(Serialize)]
struct Listed {
    vm: VmName,
    branches: Vec<BranchRecord>,
}

#[derive(Serialize)]
struct Switched {
    vm: VmName,
    branch: Option<BranchRecord>,
}

impl Branch {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let failed = |error| context.failure(&error);
        let branch = if self.remove {
            store.remove_branch(&self.vm, &self.name).map_err(failed)?
        } else {
            let start = match &self.from {
                Some(reference) => context.resolve(&store, reference)?,
                None => head(&store, &self.vm).map_err(failed)?,
            };
            let made = store.create_branch(&self.vm, &self.name, start);
            made.map_err(failed)?
        };
        let branched = Branched {
            vm: self.vm.clone(),
            removed: self.remove,
            branch,
        };
        context.answer("vmsnap.branch.v1", &branched, |told| {
            let (vm, name) = (&told.vm, &told.branch.name);
            match (told.removed, told.branch.head) {
                (true, _) => format!("removed branch {name} of {vm}"),
                (false, Some(head)) => format!("branch {name} of {vm} starts at {}", short(head)),
                (false, None) => format!("branch {name} of {vm}"),
            }
        })
    }
}

impl Branches {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let branches = store.branches(&self.vm);
        let listed = Listed {
            vm: self.vm.clone(),
            branches: branches.map_err(|error| context.failure(&error))?,
        };
        context.answer("vmsnap.branches.v1", &listed, |listed| {
            let mut rows = table(&["", "BRANCH", "HEAD", ">SNAPSHOTS", "START"]);
            for one in &listed.branches {
                let or_none = |id: Option<_>| id.map_or_else(|| "-".to_owned(), short);
                rows.add_row([
                    if one.is_current { "*" } else { "" }.to_owned(),
                    one.name.to_string(),
                    or_none(one.head),
                    one.snapshots.to_string(),
                    or_none(one.start),
                ]);
            }
            draw(&rows)
        })
    }
}

impl Switch {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let branch = store.switch(&self.vm, self.branch.as_ref());
        let switched = Switched {
            vm: self.vm.clone(),
            branch: branch.map_err(|error| context.failure(&error))?,
        };
        context.answer("vmsnap.switch.v1", &switched, |told| match &told.branch {
            None => format!("{} is on no branch", told.vm),
            Some(branch) => {
                let head = branch
                    .head
                    .map(|head| format!(", whose head is {}", short(head)));
                format!(
                    "{} is on {}{}",
                    told.vm,
                    branch.name,
                    head.unwrap_or_default()
                )
            }
        })
    }
}

/// The head of the branch that the next snapshot of a machine is taken on.
fn head(store: &Store, vm: &VmName) -> Result<snapshot_format::SnapshotId, StoreError> {
    let branch = store.branch(vm, &store.branch_for_next(vm))?;
    branch.head.ok_or_else(|| StoreError::NotFound {
        what: format!("the head of branch {} of VM {vm}", branch.name),
    })
}
