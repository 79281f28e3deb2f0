//! Branches of the first machine: how they are made, switched to and merged.

use snapshot_format::{BranchName, Description, NameError, SnapshotName, VmName};
use snapshot_store::{Merge, Metadata, Store, StoreError};

use super::model::Expected;
use super::scenario::resolve;

/// The first virtual machine.
const FIRST: &str = "web";

/// Makes a branch of the first machine that starts at `start`.
pub(super) fn make(store: &Store, name: &str, start: &str) -> Result<(), StoreError> {
    let id = store.resolve(&resolve(start)?)?;
    store.create_branch(&first()?, &branch(name)?, id).map(drop)
}

/// Puts the first machine on a branch.
pub(super) fn switch(store: &Store, name: &str) -> Result<(), StoreError> {
    store.switch(&first()?, Some(&branch(name)?)).map(drop)
}

/// Merges `source` onto the main branch of the first machine, as `VM/NAME`.
pub(super) fn merge(store: &Store, source: &str, name: &str) -> Result<(), StoreError> {
    let id = store.resolve(&resolve(source)?)?;
    let merge = Merge::of(first()?, id, BranchName::main()).metadata(merged(name)?);
    store.merge(&merge).map(drop)
}

pub(super) fn first() -> Result<VmName, StoreError> {
    VmName::new(FIRST).map_err(|error| no_name(&error))
}

pub(super) fn branch(name: &str) -> Result<BranchName, StoreError> {
    BranchName::new(name).map_err(|error| no_name(&error))
}

/// A name of the plan is none.
fn no_name(error: &NameError) -> StoreError {
    StoreError::NotFound {
        what: error.to_string(),
    }
}

/// What is attached to the result of a merge that is called `VM/NAME`.
fn merged(name: &str) -> Result<Metadata, StoreError> {
    let (_, name) = name.split_once('/').unwrap_or_default();
    let name = SnapshotName::new(name).map_err(|error| no_name(&error))?;
    Ok(Metadata {
        description: Description::new(name.as_str()).unwrap_or_default(),
        name: Some(name),
        ..Metadata::default()
    })
}

/// What a merge called `name` holds, all of which `source` gives.
pub(super) fn expected(giver: &Expected, source: &str, name: &str) -> Expected {
    let (_, description) = name.split_once('/').unwrap_or_default();
    Expected {
        image: giver.image.clone(),
        is_live: true,
        description: description.to_owned(),
        parent: Some(source.to_owned()),
        generation: 1,
        working_set: None,
        is_warm: false,
    }
}
