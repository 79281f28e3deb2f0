//! Bytes on the disk: what is zero or inherited takes none.

use snapshot_checks::Way;
use snapshot_checks::mount::Disk;
use snapshot_format::{DataLayout, PAGE_BYTES};
use snapshot_memory::{Engine, EngineChoice, MemoryStats, SinkError, Stability};

use super::{
    SLACK_BYTES, allocated_bytes, bytes_of, data_file, has_direct_writes, image, on_each_disk,
    sink, ways,
};
use crate::machine::{Machine, two_threads};

/// Two regions: 16 MiB, and 2 MiB in another leaf of the page map.
const PAGES: [u64; 2] = [4096, 512];

#[test]
fn a_sparse_file_has_holes_and_a_packed_one_has_none() {
    on_each_disk(|disk| ways(disk).for_each(|way| full_and_diff(disk, way)));
}

// spec: MEM-18
#[test]
fn an_engine_that_was_asked_for_is_never_replaced() {
    on_each_disk(|disk| {
        let way = Way {
            engine: EngineChoice::Direct,
            ..Way::default()
        };
        let machine = Machine::new([100, 20]);
        let mut sink = sink(disk, two_threads(way));
        let taken = machine.take(&mut sink, &machine.epoch(), Stability::Paused);
        match taken {
            Ok((_, stats)) => assert_eq!(stats.engine, Engine::Direct, "{}", disk.name()),
            Err(failure) => {
                let error = failure.not_committed();
                let is_typed = matches!(error, Some(SinkError::EngineRefused { .. }));
                assert!(is_typed, "{}: {}", disk.name(), failure.text());
                assert!(
                    !has_direct_writes(disk),
                    "{}: {}",
                    disk.name(),
                    failure.text()
                );
            }
        }
    });
}

/// Takes a full snapshot and a diff, and looks at the blocks of both.
fn full_and_diff(disk: &Disk, way: Way) {
    let machine = Machine::new(PAGES);
    // Half of the memory in runs of 64 pages.
    machine.clear(|page| page / 64 % 2 == 0);
    let mut sink = sink(disk, two_threads(way));
    for (what, stability) in [("full", Stability::Paused), ("diff", Stability::Running)] {
        let place = format!("{}, {way}, {what}", disk.name());
        let epoch = machine.epoch();
        let (published, stats) = machine.take(&mut sink, &epoch, stability).unwrap();
        let id = published.snapshot.id;
        epoch.commit(published.snapshot).unwrap();
        let file = data_file(disk, id);
        let stored = stats.present * PAGE_BYTES;
        let allocated = allocated_bytes(&file);
        assert!(
            allocated <= stored + SLACK_BYTES,
            "{place}: {allocated} bytes on the disk for {stored}"
        );
        if stats.layout == Some(DataLayout::Packed) {
            assert_eq!(file.len(), stored, "{place}");
            assert!(
                allocated >= stored,
                "{place}: {allocated} of {stored} bytes"
            );
        } else {
            assert_eq!(file.len(), machine.memory.len_bytes() as u64, "{place}");
        }
        assert_engine(disk, way, stability, &stats, &place);
        assert!(
            bytes_of(&image(disk, id)) == machine.image(),
            "{place}: another image"
        );
        machine.run(3, |page| page % 17 == 5 || (1000..1300).contains(&page));
    }
}

/// That writes go past the page cache where that was wanted and the file system takes them, and
/// nowhere else.
fn assert_engine(disk: &Disk, way: Way, stability: Stability, stats: &MemoryStats, place: &str) {
    let expected = match way.engine {
        EngineChoice::Vectored if stability == Stability::Paused => Engine::Vectored,
        // What may change is written from a copy.
        EngineChoice::Vectored | EngineChoice::Buffered => Engine::Buffered,
        _ if has_direct_writes(disk) => Engine::Direct,
        _ => Engine::Buffered,
    };
    assert_eq!(stats.engine, expected, "{place}");
}
