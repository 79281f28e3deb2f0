//! What a store keeps of itself: the audit log, the access, a policy, a machine, when a snapshot was
//! checked, since when a deleted one is on its way out.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use snapshot_format::{
    BranchName, Digest, MemoryLayout, PAGE_BYTES, PageRange, SnapshotId, VmName,
};
use snapshot_memory::backend::{Backend, MemBackend, RelPath};
use snapshot_memory::{Pages, RawFile, Stability};
use snapshot_store::retention::{Caps, RetentionPolicy};
use snapshot_store::{
    Actor, GarbageOptions, NewSnapshot, OpenOptions, ReadAccess, Selection, Store, VerifyOptions,
    VmPolicy,
};

/// Bytes of the memory of each snapshot.
const MEMORY_BYTES: u64 = 4 * PAGE_BYTES;

/// It is made once, and copied for each input.
static SOUND: OnceLock<Option<Sound>> = OnceLock::new();

struct Sound {
    tree: MemBackend,
    live: SnapshotId,
    deleted: SnapshotId,
    /// The files, one of which an input replaces.
    files: Vec<RelPath>,
    /// The end of the log.
    chain: Digest,
}

/// One of the files has these bytes, or is a file with a right digest around them. The store opens
/// and lists; the snapshot in use reads the same before and after whatever can be done; what is
/// published can be read by nobody who was not told; what can be said anew stays said.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_records(bytes: &[u8]) {
    let Some((sort, body)) = bytes.split_first() else {
        return;
    };
    let made = SOUND.get_or_init(|| make().ok());
    assert!(made.is_some(), "no store to start from");
    let Some(sound) = made else { return };
    let which = usize::from(sort & 0x7f) % sound.files.len();
    let Some(path) = sound.files.get(which) else {
        return;
    };
    let tree = sound.tree.snapshot();
    let replaced = tree.tamper(path, |file| {
        *file = if sort & 0x80 == 0 {
            body.to_vec()
        } else {
            sealed(file, body, which == LOG, sound.chain)
        };
    });
    assert!(replaced.is_ok(), "{replaced:?}");
    let opened = open(&tree);
    assert!(opened.is_ok(), "the store opens: {opened:?}");
    let Ok(store) = opened else { return };
    whole(&store, sound.live);
    look(&store, sound);
    change(&store, sound);
    whole(&store, sound.live);
}

/// Which of the files is the log: its lines are chained, and have no checksum.
const LOG: usize = 0;

fn sealed(file: &[u8], body: &[u8], is_log: bool, chain: Digest) -> Vec<u8> {
    if is_log {
        let chain = Digest::of(&[chain.0.as_slice(), body].concat());
        let before = format!("{{\"chain\":\"{chain}\",\"body\":");
        [file, before.as_bytes(), body, b"}\n"].concat()
    } else {
        let before = format!("{{\"checksum\":\"{}\",\"body\":", Digest::of(body));
        [before.as_bytes(), body, b"}\n"].concat()
    }
}

fn whole(store: &Store, live: SnapshotId) {
    let listed = store.list(None);
    let is_listed = listed
        .as_ref()
        .is_ok_and(|listing| listing.snapshots.iter().any(|record| record.id == live));
    assert!(is_listed, "{listed:?}");
    let mut found = vec![0; usize::try_from(MEMORY_BYTES).unwrap_or_default()];
    let pages = PageRange::new(0, MEMORY_BYTES / PAGE_BYTES);
    let read = store.image(live).map(|stored| {
        let read = stored.image().read_pages(pages, &mut found);
        assert!(read.is_ok(), "{read:?}");
    });
    assert!(read.is_ok(), "{read:?}");
    assert_eq!(found, memory(1));
}

/// Whatever these say, they say it without a panic.
fn look(store: &Store, sound: &Sound) {
    let access = store.read_access();
    assert_eq!(access.mode & !0o444, 0, "{access:?}");
    let log = store.read_audit(Some(sound.chain), &mut |_, _| {});
    assert!(log.is_ok(), "{log:?}");
    drop((store.policy(&vm()), store.branches(&vm()), store.usage()));
    drop((store.last_check(sound.live), store.trash()));
    let caps = Caps::default().max_bytes(Some(1));
    drop(store.plan_prune(&vm(), &RetentionPolicy::default().caps(caps), 0));
}

fn change(store: &Store, sound: &Sound) {
    if let Ok(intent) = store.audit_intent(actor(), "go-on", &[], &[]) {
        let outcome = store.audit_outcome(&intent, "done", "", &[]);
        let log = store.read_audit(None, &mut |_, _| {});
        let seq = log.map(|report| report.last_seq).unwrap_or_default();
        assert!(outcome.is_err() || seq > intent.seq(), "{outcome:?}, {seq}");
    }
    let set = store.set_policy(&vm(), &VmPolicy::default().quota_bytes(Some(7)));
    let policy = store.policy(&vm()).map(|policy| policy.quota_bytes);
    assert!(set.is_err() || matches!(policy, Ok(Some(7))), "{policy:?}");
    let age = VerifyOptions::of(Selection::All).older_than(Some(Duration::from_secs(1)));
    let verified = store.verify_with(&age, &mut |_| ControlFlow::Continue(()));
    assert!(
        verified
            .as_ref()
            .is_ok_and(|report| report.errors.is_empty()),
        "{verified:?}"
    );
    // Of a grace of a day on the first day there is nothing that has passed but what was noted.
    drop(store.collect(&GarbageOptions::default().grace(1, 2)));
    drop(store.undelete(sound.deleted));
    drop(store.collect(&GarbageOptions::default()));
}

fn make() -> Result<Sound, Box<dyn Error>> {
    let tree = MemBackend::new();
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    let store = Store::create(backend, &options())?;
    let live = take(&store, 1)?;
    let deleted = take(&store, 2)?;
    store.delete(&store.plan_delete(deleted)?)?;
    store.collect(&GarbageOptions::default().grace(1 << 40, 1 << 41))?;
    let branch = BranchName::new("work")?;
    store.create_branch(&vm(), &branch, live)?;
    store.switch(&vm(), Some(&branch))?;
    store.set_policy(&vm(), &VmPolicy::default().quota_bytes(Some(1 << 30)))?;
    store.set_read_access(ReadAccess::new(None, None, 0o440)?, false)?;
    let remember = VerifyOptions::of(Selection::All).remember(true);
    store.verify_with(&remember, &mut |_| ControlFlow::Continue(()))?;
    let intent = store.audit_intent(actor(), "check", &[], &[live])?;
    store.audit_outcome(&intent, "done", "", &[])?;
    let chain = store.read_audit(None, &mut |_, _| {})?.head;
    let names = [
        "audit.jsonl".to_owned(),
        "access.json".to_owned(),
        "vms/vm.json".to_owned(),
        "vms/vm.policy".to_owned(),
        format!("verified/{live}.json"),
        format!("trash/.noted-{deleted}"),
        format!("snapshots/{live}/snapshot.json"),
    ];
    let mut files = Vec::new();
    for name in names {
        let mut path = RelPath::root();
        for part in name.split('/') {
            path = path.join(part)?;
        }
        tree.metadata(&path)?;
        files.push(path);
    }
    Ok(Sound {
        tree,
        live,
        deleted,
        files,
        chain,
    })
}

fn take(store: &Store, seed: u8) -> Result<SnapshotId, Box<dyn Error>> {
    let files = MemBackend::new();
    let path = RelPath::root().join("guest")?;
    files.create(&path)?.write_all_at(0, &memory(seed))?;
    let layout = MemoryLayout::single(MEMORY_BYTES)?;
    let source = RawFile::image(files.open(&path)?, layout)?;
    let mut stage = store.sink(NewSnapshot::of(vm())).stage()?;
    stage.memory(&source, Pages::Full, Stability::Paused)?;
    Ok(stage.seal()?.publish()?.snapshot.id)
}

fn memory(seed: u8) -> Vec<u8> {
    let pages = (0..MEMORY_BYTES / PAGE_BYTES).flat_map(|page| {
        let fill = seed.wrapping_mul(u8::try_from(page).unwrap_or(1));
        std::iter::repeat_n(fill, usize::try_from(PAGE_BYTES).unwrap_or_default())
    });
    pages.collect()
}

fn vm() -> VmName {
    VmName::new("vm").unwrap_or_else(|error| unreachable!("{error}"))
}

fn actor() -> Actor {
    Actor {
        host: "host".to_owned(),
        pid: 1,
        uid: 0,
    }
}

fn options() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::ZERO)
}

fn open(tree: &MemBackend) -> Result<Store, snapshot_store::StoreError> {
    Store::open(Arc::new(tree.clone()), &options())
}
