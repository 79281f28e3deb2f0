//! What belongs to one virtual machine: sequence numbers, names, branch heads.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use snapshot_format::{BranchName, SnapshotId, SnapshotName, VmName};

use crate::checked_json::{self, Fault};
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::known::OfMachine;
use crate::lock::Held;
use crate::record;
use crate::store::Store;
use crate::vm_file::VmFile;

impl Store {
    /// Locks what belongs to one machine.
    pub(crate) fn lock_vm(&self, vm: &VmName) -> Result<Held, StoreError> {
        self.lock_exclusively(&directory::vm_lock(vm))
    }
}

/// The next sequence number of `vm`, whose lock is held.
///
/// It is above that of every manifest, deleted ones included, and above what is remembered of
/// those that are gone.
pub(crate) fn next_seq(store: &Store, vm: &VmName) -> Result<u64, StoreError> {
    seq_after(store, vm, &store.machine(vm)?)
}

fn seq_after(store: &Store, vm: &VmName, there: &OfMachine) -> Result<u64, StoreError> {
    let remembered = read(store, vm)?.map_or(0, |file| file.last_seq);
    let highest = there.all().map(|facts| facts.seq).max().unwrap_or(0);
    highest.max(remembered).checked_add(1).ok_or_else(|| {
        StoreError::damaged(
            &directory::below(&directory::vm_directory(), &directory::vm_file_name(vm)),
            "the last sequence number has been given",
        )
    })
}

/// Fails if a snapshot of `vm` in use, other than `own`, has this name. The lock of `vm` is held.
///
/// Names may change: each is read where it is kept.
pub(crate) fn check_name_is_free(
    store: &Store,
    vm: &VmName,
    name: &SnapshotName,
    own: Option<SnapshotId>,
) -> Result<(), StoreError> {
    let live = store.machine(vm)?.live;
    let others = live.iter().filter(|facts| Some(facts.id) != own);
    for facts in others {
        // One whose metadata cannot be read has no name.
        let metadata = record::read_metadata(store.backend(), Location::Live, facts.id);
        let found = metadata.ok().and_then(|metadata| metadata.name);
        if found.is_some_and(|found| found.key() == name.key()) {
            return Err(StoreError::Exists {
                what: format!("snapshot {vm}/{name} ({})", facts.id),
            });
        }
    }
    Ok(())
}

/// Fails if the machine is known under a spelling that differs in case.
pub(crate) fn check_spelling(store: &Store, vm: &VmName) -> Result<(), StoreError> {
    let there = store.machine(vm)?;
    match there.all().next() {
        Some(known) if known.vm != *vm => Err(StoreError::Exists {
            what: format!(
                "VM {}, whose name differs from {vm} in case only,",
                known.vm
            ),
        }),
        _ => Ok(()),
    }
}

/// Sees to it that `vms/<vm>.json` remembers a number not below `seq`, durably: whoever removes a
/// manifest for good removes what else remembers its number.
pub(crate) fn remember_seq(store: &Store, vm: &VmName, seq: u64) -> Result<(), StoreError> {
    let _vm = store.lock_vm(vm)?;
    if read(store, vm)?.is_some_and(|file| file.last_seq >= seq) {
        return Ok(());
    }
    change(store, vm, |_| {})
}

/// Brings `vms/<vm>.json` up to date. The lock of `vm` is held.
///
/// What of it is derived needs no file: a failure is reported to the log and to nobody else, and
/// the next change writes it anew.
pub(crate) fn refresh(store: &Store, vm: &VmName) {
    if let Err(error) = change(store, vm, |_| {}) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, %vm, "the file of the virtual machine is out of date");
    }
}

/// Writes `vms/<vm>.json`: what is derived anew, and what is not as it was, but for `change`. The
/// lock of `vm` is held.
pub(crate) fn change(
    store: &Store,
    vm: &VmName,
    change: impl FnOnce(&mut VmFile),
) -> Result<(), StoreError> {
    let there = store.machine(vm)?;
    let last_seq = seq_after(store, vm, &there)?.saturating_sub(1);
    let heads = heads(store, &there);
    let mut file = VmFile::new(vm.clone(), last_seq, heads);
    if let Some(before) = read(store, vm)? {
        (file.starts, file.current) = (before.starts, before.current);
    }
    change(&mut file);
    let name = directory::vm_file_name(vm);
    let bytes = file.encode()?;
    let (folder, access) = (directory::vm_directory(), store.own_file_access());
    file::replace(store.backend(), &folder, &name, &bytes, access)
}

/// The newest snapshot in use of each branch whose manifest can be read.
fn heads(store: &Store, there: &OfMachine) -> BTreeMap<BranchName, SnapshotId> {
    let mut newest_first: Vec<_> = there.live.iter().collect();
    newest_first.sort_by_key(|facts| Reverse((facts.seq, facts.id)));
    let mut heads = BTreeMap::new();
    for facts in newest_first {
        if heads.contains_key(&facts.branch) {
            continue;
        }
        if record::read_manifest(store.backend(), Location::Live, facts.id).is_ok() {
            heads.insert(facts.branch.clone(), facts.id);
        }
    }
    heads
}

/// What the file says; `None` where it is missing or damaged: it will be written anew. One of a
/// later version is an error, and stays as it is: nobody here knows what it says.
pub(crate) fn read(store: &Store, vm: &VmName) -> Result<Option<VmFile>, StoreError> {
    let path = directory::below(&directory::vm_directory(), &directory::vm_file_name(vm));
    let Ok(bytes) = file::read(store.backend(), &path, checked_json::MAX_BYTES) else {
        return Ok(None);
    };
    match VmFile::decode(vm, &bytes) {
        Ok(file) => Ok(Some(file)),
        Err(fault @ Fault::TooNew { .. }) => Err(StoreError::fault(&path, fault)),
        Err(Fault::Corrupt(_)) => Ok(None),
    }
}

/// Fails if changing anything of `vm` would write over a file of a later version.
pub(crate) fn check_file(store: &Store, vm: &VmName) -> Result<(), StoreError> {
    read(store, vm).map(drop)
}
