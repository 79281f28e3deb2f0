//! Vaults that earlier builds wrote are read, whatever this one would write.

use std::path::Path;
use std::sync::Arc;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::FsBackend;

use crate::testing::{Guest, PAGE, restored};
use crate::{ArchivedKind, Domain, FolderObjects, PassphraseKeeper, ScopeName, Vault};

/// The memory of the first archive, and of the second, which is a diff of it.
fn memory() -> [Vec<u8>; 2] {
    let guest = Guest::new(40, 7);
    let mut image = guest.image();
    image[20 * PAGE..36 * PAGE].fill(0);
    let first = image.clone();
    image[3 * PAGE..4 * PAGE].fill(9);
    image[24 * PAGE..25 * PAGE].fill(8);
    [first, image]
}

fn open(version: &str) -> Vault {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let backend = FsBackend::open(&folder.join(version)).unwrap();
    Vault::open(Arc::new(FolderObjects::read_only(Arc::new(backend)))).unwrap()
}

fn check(domain: &Domain) {
    let report = domain.verify(1).unwrap();
    assert!(report.is_ok() && report.records > 0, "{report:?}");
    for (number, expected) in (1..).zip(memory()) {
        let id = domain.archive_of(SnapshotId([number; 16])).unwrap();
        assert!(
            restored(domain, id).unwrap() == expected,
            "archive {number}"
        );
        let snapshot = domain.open_archive(id).unwrap();
        let manifest = snapshot.file(ArchivedKind::MANIFEST, 0).unwrap();
        assert_eq!(manifest, Some(vec![number; 700]));
    }
}

// spec: VER-06
#[test]
fn a_vault_of_format_1_is_read() {
    let vault = open("v1");
    let scope = |name| ScopeName::new(name).unwrap();
    let plain = vault.scope(&scope("default"), None).unwrap();
    check(&plain);
    let list = plain.archives().unwrap();
    assert_eq!(
        list.archives
            .iter()
            .filter(|archive| archive.is_deleted)
            .count(),
        1
    );
    assert_eq!(plain.leases().unwrap().leases.len(), 1);
    let keeper = PassphraseKeeper::new("correct horse".to_owned()).unwrap();
    check(&vault.scope(&scope("tenant"), Some(&keeper)).unwrap());
}
