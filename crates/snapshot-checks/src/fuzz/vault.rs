//! Objects of a vault whose writer lies: what they stand beside stays right.

use std::sync::{Arc, OnceLock};

use snapshot_format::{Digest, PAGE_BYTES, PageRange};
use snapshot_memory::PageSource;
use snapshot_vault::{
    CollectOptions, Domain, MemoryObjects, ObjectId, ObjectKind, ObjectName, ScopeName, Vault,
    VaultError,
};

use crate::cold_vault::{self, ColdVault};

/// It is made once, and copied for each input.
static SOUND: OnceLock<Option<ColdVault>> = OnceLock::new();

/// Two chunks: one whole, one in part.
const PAGES: usize = 18;

/// A recipe that is an archive, a tombstone, a lease or a pack with these bytes is read, collected
/// and verified; archives beside it hold what they held, or it ended the collection.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_vault(bytes: &[u8]) {
    let Some((sort, body)) = bytes.split_first() else {
        return;
    };
    let made = SOUND.get_or_init(|| cold_vault::make_of(PAGES).ok());
    assert!(made.is_some(), "no vault to start from");
    let Some(sound) = made else { return };
    let objects = sound.objects.copy();
    let opened = open(&objects);
    assert!(opened.is_ok(), "a sound vault opens: {opened:?}");
    let Ok(domain) = opened else { return };
    let id = ObjectId([*sort; 16]);
    let put = |kind, body: &[u8]| {
        let put = domain.put_body(kind, id, body);
        assert!(put.is_ok(), "{put:?}");
    };
    match sort % 4 {
        0 => {
            put(ObjectKind::Recipe, body);
            put(ObjectKind::Commit, &[]);
            read_all(&domain, id);
        }
        1 => put(ObjectKind::Tombstone, body),
        2 => put(ObjectKind::Lease, body),
        _ => {
            let name = ObjectName::of(ObjectKind::Pack, domain.id(), id);
            objects.tamper(&name, body.to_vec());
        }
    }
    // Whatever these say, they say it without a panic.
    drop((domain.leases(), domain.catalog(), domain.verify(0)));
    let mut options = CollectOptions::default();
    // Copying costs most.
    options.copy_below_percent = if sort & 4 == 0 { 100 } else { 0 };
    drop(domain.collect(&options));
    for (archive, memory) in &sound.archives {
        let found = domain.open_archive(*archive).map(|cold| {
            let image = cold.memory();
            image.map(|image| Digest::of(&read(&image, image.layout().page_count())))
        });
        assert!(
            found.as_ref().is_ok_and(|found| *found == Some(*memory)),
            "{found:?}"
        );
    }
}

fn open(objects: &MemoryObjects) -> Result<Domain, VaultError> {
    let vault = Vault::open(Arc::new(objects.clone()))?;
    vault.scope(&ScopeName::default_scope(), None)
}

/// All that a recipe names, of its memory the first pages.
fn read_all(domain: &Domain, id: ObjectId) {
    let Ok(cold) = domain.open_archive(id) else {
        return;
    };
    let files: Vec<_> = cold.files().collect();
    for (kind, index, _) in files {
        drop(cold.file(kind, index));
    }
    if let Some(image) = cold.memory() {
        let count = image.layout().page_count().min(64);
        drop(image.run(PageRange::new(0, count)));
        read(&image, count);
    }
}

/// The first pages; zeros where they cannot be read.
fn read(image: &dyn PageSource, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count * PAGE_BYTES).unwrap_or_default()];
    match image.read_pages(PageRange::new(0, count), &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}
