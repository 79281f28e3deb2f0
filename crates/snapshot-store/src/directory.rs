//! Which file lies where below a store's root. Nothing here is read from a file.

use snapshot_format::{FileKind, SnapshotId, VmName};
use snapshot_memory::backend::RelPath;
use snapshot_memory::{PLACE_PREFIX, STAGE_PREFIX};

/// The changeable part of a snapshot.
pub(crate) const METADATA_FILE: &str = "snapshot.json";

/// Who may read what is published.
pub(crate) const ACCESS_FILE: &str = "access.json";

/// Before the id in the name of a lock of placements.
const PLACE_LOCK_PREFIX: &str = "place.";

/// Before the id in the name of a lock of a materialised image.
const CACHE_LOCK_PREFIX: &str = "cache.";

/// After the id in the name of a materialised image.
const CACHED_SUFFIX: &str = ".img";

/// Before the id in the name of a snapshot that is being removed for good.
const GONE_PREFIX: &str = ".gone-";

/// Before the id in the name of a file that says since when a snapshot is on its way out.
const NOTED_PREFIX: &str = ".noted-";

/// The directories of a store, in the order in which they are made.
pub(crate) const DIRECTORIES: [&str; 5] = ["vms", "snapshots", "trash", "locks", "cache"];

/// The directories of a store.
pub(crate) fn all() -> impl Iterator<Item = RelPath> {
    DIRECTORIES.into_iter().map(plain)
}

/// The directories of a store that readers go through.
pub(crate) fn readable() -> impl Iterator<Item = RelPath> {
    ["vms", "snapshots", "trash", "cache"]
        .into_iter()
        .map(plain)
}

/// Where a snapshot is: in use, or deleted and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    /// `snapshots/<id>`.
    Live,
    /// `trash/<id>`: hidden from lists, still read by the snapshots that need it.
    Trash,
}

impl Location {
    /// Both, in the order in which a snapshot's files are looked for.
    pub(crate) const SEARCH: [Self; 2] = [Self::Live, Self::Trash];

    /// The directory that holds the snapshots of this location.
    pub(crate) fn directory(self) -> RelPath {
        plain(match self {
            Self::Live => "snapshots",
            Self::Trash => "trash",
        })
    }

    /// The directory of one snapshot.
    pub(crate) fn snapshot(self, id: SnapshotId) -> RelPath {
        below(&self.directory(), &id.to_string())
    }
}

/// `trash/.gone-<id>`: a tombstone.
pub(crate) fn gone(id: SnapshotId) -> RelPath {
    below(&Location::Trash.directory(), &format!("{GONE_PREFIX}{id}"))
}

/// The id in the name of a tombstone.
pub(crate) fn gone_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(GONE_PREFIX)?.parse().ok()
}

/// The file name below `trash` of what says since when a snapshot is on its way out.
pub(crate) fn noted_name(id: SnapshotId) -> String {
    format!("{NOTED_PREFIX}{id}")
}

/// `trash/.noted-<id>`.
pub(crate) fn noted(id: SnapshotId) -> RelPath {
    below(&Location::Trash.directory(), &noted_name(id))
}

/// The id in the name of such a file.
pub(crate) fn noted_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(NOTED_PREFIX)?.parse().ok()
}

/// `reserve`: blocks that are given up when freeing space needs some.
pub(crate) fn reserve_file() -> RelPath {
    plain("reserve")
}

/// `locks/gc`: held by a collection of garbage.
pub(crate) fn garbage_lock() -> RelPath {
    plain("locks/gc")
}

/// The file name below [`vm_directory`] of the policy of a virtual machine.
///
/// It ends otherwise than [`vm_file_name`]: no other machine's file has the name.
pub(crate) fn policy_file_name(vm: &VmName) -> String {
    format!("{}.policy", vm.key())
}

/// `store.vms`.
pub(crate) fn store_file() -> RelPath {
    plain(&FileKind::Store.file_name(0))
}

/// `locks`.
pub(crate) fn lock_directory() -> RelPath {
    plain("locks")
}

/// `vms`.
pub(crate) fn vm_directory() -> RelPath {
    plain("vms")
}

/// The file name below [`vm_directory`] of what is remembered of a virtual machine.
pub(crate) fn vm_file_name(vm: &VmName) -> String {
    format!("{}.json", vm.key())
}

/// `snapshots/.stage-<id>`.
pub(crate) fn stage(id: SnapshotId) -> RelPath {
    below(&Location::Live.directory(), &format!("{STAGE_PREFIX}{id}"))
}

/// The id in the name of a staging directory.
pub(crate) fn staged_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(STAGE_PREFIX)?.parse().ok()
}

/// `snapshots/.place-<id>`.
pub(crate) fn placing(id: SnapshotId) -> RelPath {
    below(&Location::Live.directory(), &format!("{PLACE_PREFIX}{id}"))
}

/// The id in the name of a directory in which a new placement is prepared.
pub(crate) fn placing_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(PLACE_PREFIX)?.parse().ok()
}

/// `locks/place.<id>`: held while a new placement of a snapshot is made.
pub(crate) fn place_lock(id: SnapshotId) -> RelPath {
    below(&plain("locks"), &format!("{PLACE_LOCK_PREFIX}{id}"))
}

/// The id in the name of a lock of placements.
pub(crate) fn place_lock_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(PLACE_LOCK_PREFIX)?.parse().ok()
}

/// `quarantine`: copies of damaged files, made before others took their place. Never read.
pub(crate) fn quarantine_directory() -> RelPath {
    plain("quarantine")
}

/// `verified`: made when the first check is remembered.
pub(crate) fn verified_directory() -> RelPath {
    plain("verified")
}

/// `verified/<id>.json`: when a snapshot was checked last.
pub(crate) fn verified(id: SnapshotId) -> RelPath {
    below(&verified_directory(), &format!("{id}.json"))
}

/// The id in the name of what is remembered of the last check.
pub(crate) fn verified_id(name: &str) -> Option<SnapshotId> {
    name.strip_suffix(".json")?.parse().ok()
}

/// `locks/verified`: held while a check is remembered.
pub(crate) fn verified_lock() -> RelPath {
    plain("locks/verified")
}

/// `cache`.
pub(crate) fn cache_directory() -> RelPath {
    plain("cache")
}

/// `cache/<id>.img`: the materialised image of a snapshot.
pub(crate) fn cached(id: SnapshotId) -> RelPath {
    below(&cache_directory(), &format!("{id}{CACHED_SUFFIX}"))
}

/// `cache/.<id>.img.new`: one that is being built.
pub(crate) fn caching(id: SnapshotId) -> RelPath {
    let name = format!("{id}{CACHED_SUFFIX}");
    below(&cache_directory(), &replacement_name(&name))
}

/// The id in the name of a materialised image, and whether it is whole.
pub(crate) fn cached_id(name: &str) -> Option<(SnapshotId, bool)> {
    let unfinished = name.strip_prefix('.').and_then(|n| n.strip_suffix(".new"));
    let whole = unfinished.unwrap_or(name).strip_suffix(CACHED_SUFFIX)?;
    Some((whole.parse().ok()?, unfinished.is_none()))
}

/// `locks/cache.<id>`: held while a materialised image is built or removed.
pub(crate) fn cache_lock(id: SnapshotId) -> RelPath {
    below(&plain("locks"), &format!("{CACHE_LOCK_PREFIX}{id}"))
}

/// The id in the name of a lock of a materialised image.
pub(crate) fn cache_lock_id(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(CACHE_LOCK_PREFIX)?.parse().ok()
}

/// `locks/<id>`: held exclusively while a snapshot is made or deleted, shared while it is used.
pub(crate) fn snapshot_lock(id: SnapshotId) -> RelPath {
    below(&plain("locks"), &id.to_string())
}

/// `locks/vm.<name>`: held while a sequence number or a name of that machine is given.
pub(crate) fn vm_lock(vm: &VmName) -> RelPath {
    below(&plain("locks"), &format!("vm.{}", vm.key()))
}

/// `locks/commit`: held for the moment in which the set of snapshots changes.
pub(crate) fn commit_lock() -> RelPath {
    plain("locks/commit")
}

/// `audit.jsonl`.
pub(crate) fn audit_file() -> RelPath {
    plain("audit.jsonl")
}

/// `locks/audit`: held while an entry is appended to the audit log.
pub(crate) fn audit_lock() -> RelPath {
    plain("locks/audit")
}

/// The name of the file that is written before it replaces `name`.
pub(crate) fn replacement_name(name: &str) -> String {
    format!(".{name}.new")
}

/// `directory/name`, for a name of this module's making or one that a backend listed.
#[expect(
    clippy::expect_used,
    reason = "ids, checked names and constants hold nothing but plain characters"
)]
pub(crate) fn below(directory: &RelPath, name: &str) -> RelPath {
    directory.join(name).expect("a plain name")
}

/// A constant path.
fn plain(path: &str) -> RelPath {
    path.split('/')
        .fold(RelPath::root(), |parent, name| below(&parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_format::limits::MAX_NAME_BYTES;

    // spec: STO-01
    #[test]
    fn every_kind_of_file_has_its_own_place() {
        let id = SnapshotId([0xab; 16]);
        let text = "abababab-abab-abab-abab-abababababab";
        let long = VmName::new("Z".repeat(MAX_NAME_BYTES)).unwrap();
        assert_eq!(stage(id).as_str(), format!("snapshots/.stage-{text}"));
        assert_eq!(staged_id(stage(id).name()), Some(id));
        assert_eq!(staged_id(text), None);
        assert_eq!(placing(id).as_str(), format!("snapshots/.place-{text}"));
        assert_eq!(placing_id(placing(id).name()), Some(id));
        assert_eq!(place_lock(id).as_str(), format!("locks/place.{text}"));
        assert_eq!(place_lock_id(place_lock(id).name()), Some(id));
        assert_eq!(
            Location::Trash.snapshot(id).as_str(),
            format!("trash/{text}")
        );
        assert_eq!(snapshot_lock(id).as_str(), format!("locks/{text}"));
        assert_eq!(commit_lock().as_str(), "locks/commit");
        assert_eq!(garbage_lock().as_str(), "locks/gc");
        assert_eq!(gone(id).as_str(), format!("trash/.gone-{text}"));
        assert_eq!(gone_id(gone(id).name()), Some(id));
        assert_eq!(noted(id).as_str(), format!("trash/.noted-{text}"));
        assert_eq!(noted_id(noted(id).name()), Some(id));
        let (web, policy) = (
            VmName::new("Web").unwrap(),
            VmName::new("web.policy").unwrap(),
        );
        assert_eq!(policy_file_name(&web), "web.policy");
        assert_ne!(policy_file_name(&web), vm_file_name(&policy));
        assert!(vm_lock(&long).as_str().starts_with("locks/vm.zzz"));
        assert!(
            below(&vm_directory(), &replacement_name(&vm_file_name(&long)))
                .name()
                .len()
                < 200
        );
    }
}
