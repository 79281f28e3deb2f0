//! What a store keeps of itself beside its snapshots: its log, who may read it, branches.

use std::collections::BTreeSet;

use snapshot_format::{BranchName, VmName};
use snapshot_store::{Actor, ErrorKind, ReadAccess, Store, StoreError};

use super::branches;
use super::model::chain;

/// One thing that is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Saying {
    /// An entry in the audit log.
    Entry,
    /// Who may read what is published, and what was.
    Access(u32),
    /// A branch of the first machine that has no snapshot is taken away.
    NoBranch(&'static str),
}

/// All that was said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Said {
    entries: u64,
    mode: u32,
    /// Branches of the first machine that somebody made.
    branches: BTreeSet<String>,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            entries: 0,
            mode: ReadAccess::default().mode,
            branches: BTreeSet::new(),
        }
    }
}

impl Said {
    pub(super) fn say(&mut self, saying: Saying) {
        match saying {
            Saying::Entry => self.entries += 1,
            Saying::Access(mode) => self.mode = mode,
            Saying::NoBranch(name) => {
                self.branches.remove(name);
            }
        }
    }

    pub(super) fn branch(&mut self, name: &str) {
        self.branches.insert(name.to_owned());
    }

    /// What differs between the store and this, if anything does.
    pub(super) fn compare(&self, store: &Store) -> Result<(), String> {
        let log = store.read_audit(None, &mut |_, _| {});
        let log = log.map_err(|error| chain(&error))?;
        if !log.ok || log.entries != self.entries {
            let expected = self.entries;
            return Err(format!("the log is {log:?}, and has {expected} entries"));
        }
        let mode = store.read_access().mode;
        if mode != self.mode {
            return Err(format!("the access is {mode:o}, not {:o}", self.mode));
        }
        let found = branches::first().and_then(|vm| store.branches(&vm));
        let found = match found {
            // Nobody knows the machine.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            found => found.map_err(|error| chain(&error))?,
        };
        let main = BranchName::main();
        let names = found.iter().filter(|branch| branch.name != main);
        let names: BTreeSet<String> = names.map(|branch| branch.name.to_string()).collect();
        if names == self.branches {
            return Ok(());
        }
        Err(format!(
            "the branches are {names:?}, not {:?}",
            self.branches
        ))
    }
}

/// Says it to a store.
pub(super) fn say(store: &Store, saying: Saying) -> Result<(), StoreError> {
    match saying {
        Saying::Entry => {
            let actor = Actor {
                host: "host".to_owned(),
                pid: 1,
                uid: 0,
            };
            let arguments = ["one".to_owned()];
            store
                .audit_intent(actor, "check", &arguments, &[])
                .map(drop)
        }
        Saying::Access(mode) => store.set_read_access(ReadAccess::new(None, None, mode)?, true),
        Saying::NoBranch(name) => {
            let vm: VmName = branches::first()?;
            store.remove_branch(&vm, &branches::branch(name)?).map(drop)
        }
    }
}
