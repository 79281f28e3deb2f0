//! Branches made and removed, switched between, and merged.

use snapshot_format::{BranchName, SnapshotName, VmName};
use snapshot_memory::SinkError;
use snapshot_store::{Giver, Merge, StoreError};

use super::model::{self, Kept, Key, Model, VMS};
use super::plan::Plan;
use crate::random::Random;

/// A branch from any snapshot in use, and away with it again.
pub(super) fn branch(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let vm = VmName::new(*random.pick(&VMS)?).ok()?;
    let name = BranchName::new(format!("b{}", random.next())).ok()?;
    let what = format!("branch {name} of {vm} from {key}");
    Some(Plan::new(what, model.clone(), move |hands| {
        let start = hands.id(key)?;
        hands.store.create_branch(&vm, &name, start)?;
        if hands.store.branch(&vm, &name)?.head != Some(start) {
            hands.violation = Some("the new branch has another head".to_owned());
        }
        hands.store.remove_branch(&vm, &name).map(drop)
    }))
}

/// Another branch for a machine.
pub(super) fn switch(model: &Model, random: &mut Random) -> Option<Plan> {
    let (_, kept) = model.pick_live(random)?;
    let (vm, branch) = (
        VmName::new(kept.vm).ok()?,
        BranchName::new(kept.branch).ok()?,
    );
    let what = format!("switch {vm} to {branch}");
    Some(Plan::new(what, model.clone(), move |hands| {
        hands.store.switch(&vm, Some(&branch))?;
        if hands.store.branch_for_next(&vm) != branch {
            hands.violation = Some("the machine is on another branch".to_owned());
        }
        Ok(())
    }))
}

/// A snapshot onto a branch that it is not on the path of: memory and state of one side.
pub(super) fn merge(model: &Model, random: &mut Random) -> Option<Plan> {
    let (source, _) = model.pick_live(random)?;
    let (_, target) = model.pick_live(random)?;
    let head = model.head(target.vm, target.branch)?;
    if model.is_on_path(source, head) {
        return None;
    }
    let (giver, gives) = if random.is_one_in(2) {
        (Giver::Source, source)
    } else {
        (Giver::Target, head)
    };
    let key = model.next;
    let mut after = model.clone();
    after.next += 1;
    after.snapshots.insert(key, merged(model, gives, target)?);
    let (vm, branch) = (target.vm, target.branch);
    let what = format!("merge {source} onto {branch} of {vm} as {key}, of {giver:?}");
    Some(Plan::new(what, after, move |hands| {
        let vm = VmName::new(vm).map_err(own)?;
        let branch = BranchName::new(branch).map_err(own)?;
        let mut merge = Merge::of(vm, hands.id(source)?, branch).giver(giver);
        let name = SnapshotName::new(model::name(key)).map_err(own)?;
        merge.metadata.name = Some(name);
        hands.store.merge(&merge).map(drop)
    }))
}

/// A merge is a child of the side that gives, on the branch that it is merged onto.
fn merged(model: &Model, gives: Key, target: &Kept) -> Option<Kept> {
    let from = model.snapshots.get(&gives)?;
    Some(Kept {
        vm: target.vm,
        branch: target.branch,
        parent: Some(gives),
        is_protected: false,
        description: String::new(),
        ..from.clone()
    })
}

/// An error of this check's own doing.
fn own(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    SinkError::Catalog(Box::new(error)).into()
}
