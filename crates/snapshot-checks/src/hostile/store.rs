//! A published store whose files are changed behind its back: flipped, cut, lost, swapped.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::{
    DataLayout, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, SectionKind,
    SectionPayload, SnapshotId, SnapshotRef, VmName,
};
use snapshot_memory::backend::{Backend, EntryKind, MemBackend, RelPath};
use snapshot_memory::{DirtyBitmap, FrameCodec, Pages, RawFile, RelayoutOptions, Stability};
use snapshot_store::{NewSnapshot, OpenOptions, Selection, Store};

use crate::hostile::Tally;

pub(super) type Fallible<T> = Result<T, Box<dyn Error>>;

/// A store in memory, and what its snapshots hold.
pub(super) struct Published {
    pub(super) tree: MemBackend,
    pub(super) snapshots: Vec<Known>,
}

/// One snapshot, as it was captured.
pub(super) struct Known {
    pub(super) id: SnapshotId,
    pub(super) image: Vec<u8>,
    state: Vec<u8>,
}

/// Changes every file of every snapshot in every way, and uses the store.
pub(super) fn run(tally: &mut Tally) -> Fallible<()> {
    let published = publish()?;
    if !matches!(judge(&published, &published.tree), Verdict::Sound) {
        return Err("the store that nobody changed is not sound".into());
    }
    let mut files = Vec::new();
    for known in &published.snapshots {
        let folder = RelPath::root()
            .join("snapshots")?
            .join(&known.id.to_string())?;
        for entry in published.tree.list(&folder)? {
            if entry.kind == EntryKind::File {
                files.push((entry.name.clone(), folder.join(&entry.name)?));
            }
        }
    }
    for (name, path) in &files {
        let bytes = read(&published.tree, path)?;
        for change in changes(name, &bytes) {
            attempt(&published, path, &change, tally);
        }
        for (other_name, other) in &files {
            if other_name == name && other != path {
                let bytes = read(&published.tree, other)?;
                attempt(&published, path, &Change::swap(bytes), tally);
            }
        }
    }
    Ok(())
}

/// New bytes for a file.
struct Change {
    what: String,
    bytes: Vec<u8>,
}

impl Change {
    fn swap(bytes: Vec<u8>) -> Self {
        Self {
            what: "swapped with that of another snapshot".to_owned(),
            bytes,
        }
    }
}

/// Flips and cuts. Long files are alike all over: they are changed at every prime-th byte.
fn changes(name: &str, bytes: &[u8]) -> Vec<Change> {
    let step = match name {
        "memory.img" | "memory.1.img" => 127,
        "memory.map" | "memory.1.map" => 11,
        _ => 1,
    };
    let mut changes = Vec::new();
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        changes.push(Change {
            what: format!("byte {at} flipped"),
            bytes: flipped,
        });
    }
    for end in (0..bytes.len()).step_by(step * 5) {
        let cut = bytes.get(..end).unwrap_or_default();
        changes.push(Change {
            what: format!("cut at {end}"),
            bytes: cut.to_vec(),
        });
    }
    let longer = [bytes, &[0]].concat();
    changes.push(Change {
        what: "one byte more".to_owned(),
        bytes: longer,
    });
    changes
}

fn attempt(published: &Published, path: &RelPath, change: &Change, tally: &mut Tally) {
    let verdict = tally.count(path.as_str(), &change.what, || {
        let tree = published.tree.snapshot();
        match tree.tamper(path, |bytes| bytes.clone_from(&change.bytes)) {
            Ok(()) => judge(published, &tree),
            Err(error) => Verdict::Wrong(format!("cannot be changed: {error}")),
        }
    });
    // What people attach to a snapshot is not its content: damage there must do no harm, and the
    // snapshot must still be read.
    let is_attached = path.name() == "snapshot.json";
    match verdict {
        Some(Verdict::Wrong(why)) => {
            tally.accept_wrong(path.as_str(), format_args!("{}: {why}", change.what));
        }
        Some(Verdict::Sound) if !is_attached => {
            tally.accept_wrong(
                path.as_str(),
                format_args!("{}: verify is content", change.what),
            );
        }
        _ => {}
    }
}

/// What using a changed store gave.
enum Verdict {
    /// Everything is as it was captured, and verify says so.
    Sound,
    /// Something was refused, and nothing false was handed out.
    Refused,
    /// Something false was handed out.
    Wrong(String),
}

fn judge(published: &Published, tree: &MemBackend) -> Verdict {
    let backend: Arc<dyn Backend> = Arc::new(tree.snapshot());
    let Ok(store) = Store::open(backend, &options()) else {
        return Verdict::Refused;
    };
    let mut is_refused = store
        .list(None)
        .map_or(true, |listing| !listing.damaged.is_empty());
    for known in &published.snapshots {
        match read_image(&store, known) {
            Ok(image) if image != known.image => {
                return Verdict::Wrong(format!("{} restores to other bytes", known.id));
            }
            Ok(_) => {}
            Err(_) => is_refused = true,
        }
        match read_state(&store, known.id) {
            Ok(state) if state.as_ref() != Some(&known.state) => {
                return Verdict::Wrong(format!("{} gives another machine state", known.id));
            }
            Ok(_) => {}
            Err(_) => is_refused = true,
        }
    }
    match store.verify(Selection::All, &mut |_| ControlFlow::Continue(())) {
        Ok(report) if report.ok && is_refused => {
            Verdict::Wrong("verify is content with what cannot be read".to_owned())
        }
        Ok(report) if report.ok => Verdict::Sound,
        _ => Verdict::Refused,
    }
}

pub(super) fn read_image(store: &Store, known: &Known) -> Fallible<Vec<u8>> {
    let stored = store.image(known.id)?;
    let pages = stored.image().layout().page_count();
    let mut found = vec![0; usize::try_from(pages * PAGE_BYTES)?];
    stored
        .image()
        .read_pages(PageRange::new(0, pages), &mut found)?;
    Ok(found)
}

fn read_state(store: &Store, id: SnapshotId) -> Fallible<Option<Vec<u8>>> {
    let mut offers = store.state(id)?;
    Ok(offers
        .take_payload(SectionKind::CALLER, 0)
        .map(|section| section.bytes))
}

/// A full snapshot, a diff of it, both laid out anew, and a full one of another machine.
pub(super) fn publish() -> Fallible<Published> {
    let tree = MemBackend::new();
    let store = Store::create(Arc::new(tree.clone()), &options())?;
    let layout = layout()?;
    let mut image = vec![0; usize::try_from(layout.len_bytes())?];
    fill(&mut image, &[0, 1, 3, 7], 1);
    let mut snapshots = Vec::new();
    let base = take(&store, "one", &layout, &image, None, &mut snapshots)?;
    let pages = [1, 4, 9];
    fill(&mut image, &pages, 2);
    let dirty = DirtyBitmap::new(layout.page_count());
    for page in pages {
        dirty.set_range(PageRange::new(page.into(), 1));
    }
    take(
        &store,
        "one",
        &layout,
        &image,
        Some((base, &dirty)),
        &mut snapshots,
    )?;
    // Each has its pages in a second file, and a placement that says so; the diff needs the first
    // file of its parent.
    let packed = RelayoutOptions::of(DataLayout::Packed);
    let compressed = RelayoutOptions::compressed(FrameCodec::Lz4);
    for (known, options) in snapshots.iter().zip([packed, compressed]) {
        store.relayout(known.id, &options)?;
    }
    fill(&mut image, &[0, 1, 2], 3);
    take(&store, "two", &layout, &image, None, &mut snapshots)?;
    Ok(Published { tree, snapshots })
}

pub(super) fn take(
    store: &Store,
    vm: &str,
    layout: &MemoryLayout,
    image: &[u8],
    since: Option<(SnapshotRef, &DirtyBitmap)>,
    snapshots: &mut Vec<Known>,
) -> Fallible<SnapshotRef> {
    let files = MemBackend::new();
    let path = RelPath::root().join("guest")?;
    files.create(&path)?.write_all_at(0, image)?;
    let source = RawFile::image(files.open(&path)?, layout.clone())?;
    let pages = since.map_or(Pages::Full, |(base, dirty)| Pages::Since { base, dirty });
    let state = vec![0x5a ^ u8::try_from(snapshots.len())?; 100];
    let new = NewSnapshot::of(VmName::new(vm)?).parent(since.map(|(base, _)| base));
    let mut stage = store.sink(new).stage()?;
    stage.section(SectionPayload::raw(
        SectionKind::CALLER,
        0,
        1,
        state.clone(),
    ));
    stage.memory(&source, pages, Stability::Paused)?;
    let published = stage.seal()?.publish()?.snapshot;
    snapshots.push(Known {
        id: published.id,
        image: image.to_vec(),
        state,
    });
    Ok(published)
}

/// Two regions around a hole, in different leaves of a page map.
fn layout() -> Fallible<MemoryLayout> {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    Ok(MemoryLayout::new(vec![region(0, 5), region(128 << 20, 6)])?)
}

fn fill(image: &mut [u8], pages: &[u8], seed: u8) {
    for &page in pages {
        let bytes = image.chunks_mut(4096).nth(page.into()).unwrap_or_default();
        for (at, byte) in (0..=255_u8).cycle().zip(bytes) {
            *byte = at.wrapping_mul(7).wrapping_add(seed).wrapping_add(page);
        }
    }
}

pub(super) fn options() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::ZERO)
}

pub(super) fn read(tree: &MemBackend, path: &RelPath) -> Fallible<Vec<u8>> {
    let file = tree.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?)?];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}
