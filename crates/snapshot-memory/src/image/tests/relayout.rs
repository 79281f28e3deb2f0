//! Data files laid out anew, held against those that they were made from.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use snapshot_format::{DataFileRef, DataLayout, LeafRef, LeafTable, PageRange};

use super::fixture::{Cell, Chain, path};
use super::{cells, chain_of, data_layouts};
use crate::backend::{Backend, RelPath};
use crate::frames::FrameCodec;
use crate::image::{DataFile, DataFileNames, ImageError, MapFile, MemoryImage};
use crate::relayout::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::staged::StagedPlacement;
use crate::{Cancel, CaptureControl, SinkError};

/// Lays data file `number` of a chain out anew, as `<number>.1.img` and `.map`.
fn lay(
    chain: &Chain,
    number: usize,
    options: &RelayoutOptions,
) -> Result<WrittenLayout, RelayoutError> {
    let source = chain.open_file(number)?;
    let backend = Arc::new(chain.backend.clone());
    let id = source.root().id;
    let mut staged = StagedPlacement::begin(backend, RelPath::root(), id)?;
    let written = staged.relayout(&source, 1, options)?;
    let (data, map) = (staged.files()[0], staged.files()[1]);
    assert_eq!(data.digest, written.map_root);
    assert_eq!(map.len_bytes, written.map_len_bytes);
    let stage = RelPath::root().join(&format!(".place-{id}")).unwrap();
    for (from, to) in [(data.file_name(), "1.img"), (map.file_name(), "1.map")] {
        let from = stage.join(&from).unwrap();
        chain
            .backend
            .rename_replace(&from, &path(number, to))
            .unwrap();
    }
    Ok(written)
}

fn open(chain: &Chain, number: usize, written: &WrittenLayout) -> DataFile {
    let open = |name| chain.backend.open(&path(number, name)).unwrap();
    let names = DataFileNames {
        map: format!("{number}.1.map"),
        data: format!("{number}.1.img"),
    };
    let wanted = DataFileRef {
        index: 1,
        map_root: written.map_root,
        ..chain.files[number - 1]
    };
    DataFile::open(open("1.map"), open("1.img"), names, &wanted).unwrap()
}

fn first_map(chain: &Chain, number: usize) -> MapFile {
    let map = chain.backend.open(&path(number, "map")).unwrap();
    MapFile::open(map, format!("{number}.map"), &chain.files[number - 1]).unwrap()
}

/// The memory of the whole chain with one of its data files laid out anew.
fn replaced(chain: &Chain, number: usize, new: DataFile, written: &WrittenLayout) -> MemoryImage {
    let mut files: Vec<_> = (1..=chain.files.len())
        .map(|number| chain.open_file(number).unwrap())
        .collect();
    files[number - 1] = new;
    // Leaves that later files changed stay theirs.
    let leaf = |old: &LeafRef| match written.owners.get(old.number) {
        Some(new) if new.file == old.file => *new,
        _ => *old,
    };
    let table = chain.table.refs().iter().map(leaf).collect();
    let table = LeafTable::new(table).unwrap();
    MemoryImage::new(chain.layout.clone(), table, files).unwrap()
}

fn differences(new: &DataFile, first: &MapFile) -> Vec<ImageError> {
    let mut errors = Vec::new();
    let mut go = |_| ControlFlow::Continue(());
    new.check_same(first, &mut |error| errors.push(error), &mut go);
    errors
}

fn layouts() -> impl Strategy<Value = RelayoutOptions> {
    prop::sample::select(vec![
        RelayoutOptions::of(DataLayout::Sparse),
        RelayoutOptions::of(DataLayout::Packed),
        RelayoutOptions::compressed(FrameCodec::Lz4),
        RelayoutOptions::compressed(FrameCodec::ZSTD),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // spec: PLC-08
    #[test]
    fn reads_from_either_file_are_equal(
        snapshots in prop::collection::vec((cells(), data_layouts()), 1..4),
        number in 0usize..4,
        wanted in layouts(),
        start in 0u64..50,
    ) {
        let chain = chain_of(&snapshots);
        let number = number % snapshots.len() + 1;
        let written = lay(&chain, number, &wanted).unwrap();
        let new = open(&chain, number, &written);
        let old = chain.open_file(number).unwrap();
        prop_assert_eq!(new.root().data_layout, wanted.layout);
        prop_assert!(wanted.are_met_by(&new).unwrap());
        prop_assert_eq!(new.page_counts().unwrap(), old.page_counts().unwrap());
        prop_assert_eq!(written.present, new.page_counts().unwrap().present);

        let mut errors = differences(&new, &first_map(&chain, number));
        new.check(&mut |error| errors.push(error), &mut |_| ControlFlow::Continue(()));
        prop_assert!(errors.is_empty(), "{errors:?}");

        let replaced = replaced(&chain, number, new, &written);
        let mut out = vec![0xEE; (50 - start) as usize * 4096];
        replaced.read_pages(PageRange::new(start, 50 - start), &mut out).unwrap();
        prop_assert!(out == chain.model[start as usize * 4096..]);
    }

    // spec: PLC-08
    #[test]
    fn another_memory_is_told_from_the_same(
        cells in cells(),
        page in 0usize..50,
        seed in any::<u8>(),
        kind in data_layouts(),
        wanted in layouts(),
    ) {
        let chain = chain_of(&[(cells.clone(), kind)]);
        let mut others = cells;
        others[page] = Cell::Data(seed);
        let other = chain_of(&[(others, kind)]);
        let written = lay(&other, 1, &wanted).unwrap();
        let same = chain.model == other.model
            && chain.open_file(1).unwrap().page_counts().unwrap()
                == other.open_file(1).unwrap().page_counts().unwrap();
        let errors = differences(&open(&other, 1, &written), &first_map(&chain, 1));
        prop_assert_eq!(errors.is_empty(), same, "{:?}", errors);
    }
}

fn chain() -> Chain {
    let cells = (0..50).map(|page| Cell::Data(page | 1)).collect();
    chain_of(&[(cells, (DataLayout::Sparse, 16))])
}

#[test]
fn pages_are_checked_on_their_way() {
    let chain = chain();
    let data = path(1, "img");
    chain
        .backend
        .tamper(&data, |bytes| bytes[7 * 4096 + 5] ^= 1)
        .unwrap();
    let refused = lay(&chain, 1, &RelayoutOptions::of(DataLayout::Packed));
    let error = refused.unwrap_err();
    let is_damage = matches!(&error, RelayoutError::Read(error) if error.file() == Some("1.img"));
    assert!(is_damage, "{error}");
    // And the stage is gone.
    let left = chain.backend.list(&RelPath::root()).unwrap();
    assert!(left.iter().all(|entry| !entry.name.starts_with('.')));
}

#[test]
fn progress_ends_with_everything_and_a_wish_to_end_is_obeyed() {
    let chain = chain();
    let seen = Arc::new(AtomicU64::new(0));
    let told = seen.clone();
    let control = CaptureControl::default().progress(move |progress| {
        assert_eq!(progress.total_bytes, 50 * 4096);
        told.store(progress.written_bytes, Ordering::Relaxed);
    });
    let options = RelayoutOptions::of(DataLayout::Packed).control(control);
    lay(&chain, 1, &options).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 50 * 4096);
    options.recheck(&chain.open_file(1).unwrap()).unwrap();

    let cancel = Cancel::default();
    cancel.ask();
    let control = CaptureControl::default().cancel(cancel);
    let options = RelayoutOptions::of(DataLayout::Packed).control(control);
    for stopped in [
        lay(&chain, 1, &options).map(drop),
        options.recheck(&chain.open_file(1).unwrap()),
    ] {
        let is_cancelled = matches!(stopped, Err(RelayoutError::Write(SinkError::Cancelled)));
        assert!(is_cancelled, "{stopped:?}");
    }
}
