//! The queue of writes on real file systems.

use std::io;

use snapshot_memory::backend::{RelPath, WriteFile};
use snapshot_memory::{DirectBuffer, DirectRefused, Engine, Piece, QueueMode};

use super::{backend, has_direct_writes, on_each_disk};

const PAGE: usize = 4096;

/// Pages of each file.
const PAGES: usize = 2000;

/// Pages of one buffer that are used.
const BUFFER_PAGES: usize = 200;

#[test]
fn scattered_pieces_arrive_in_every_mode_and_the_file_takes_odd_writes_again() {
    on_each_disk(|disk| {
        for mode in [
            QueueMode::Buffered,
            QueueMode::PreferDirect,
            QueueMode::Direct,
        ] {
            let place = format!("{}, {mode:?}", disk.name());
            let path = RelPath::root().join(&format!("{mode:?}")).unwrap();
            let mut file = backend(disk).create(&path).unwrap();
            match write_scattered(&mut *file, mode) {
                Ok(engine) => assert_eq!(
                    engine != Engine::Buffered,
                    mode != QueueMode::Buffered && has_direct_writes(disk),
                    "{place}"
                ),
                Err(error) => {
                    assert!(DirectRefused::of(&error).is_some(), "{place}: {error}");
                    assert!(!has_direct_writes(disk), "{place}");
                    continue;
                }
            }
            file.write_all_at(1, b"odd").unwrap();
            let mut expected = image();
            expected[1..4].copy_from_slice(b"odd");
            let mut found = vec![0; PAGES * PAGE];
            let file = backend(disk).open(&path).unwrap();
            file.read_exact_at(0, &mut found).unwrap();
            assert!(found == expected, "{place}");
        }
    });
}

#[test]
fn reserving_makes_a_file_longer_and_never_shorter_and_too_much_is_no_space() {
    on_each_disk(|disk| {
        let path = RelPath::root().join("reserved").unwrap();
        let mut file = backend(disk).create(&path).unwrap();
        let len = || backend(disk).open(&path).unwrap().len().unwrap();
        file.reserve(0).unwrap();
        assert_eq!(len(), 0, "{}", disk.name());
        file.write_all_at(4, b"bytes").unwrap();
        file.reserve(3 << 20).unwrap();
        file.reserve(1 << 20).unwrap();
        assert_eq!(len(), 3 << 20, "{}", disk.name());
        let allocated = file.allocated_bytes().unwrap();
        let gains_nothing = disk.name() == "btrfs";
        assert_eq!(allocated >= 3 << 20, !gains_nothing, "{}", disk.name());
        let mut found = vec![1; 3 << 20];
        let reader = backend(disk).open(&path).unwrap();
        reader.read_exact_at(0, &mut found).unwrap();
        assert_eq!(found[..9], *b"\0\0\0\0bytes");
        assert!(found[9..].iter().all(|byte| *byte == 0));
        if !gains_nothing {
            let error = file.reserve(1 << 30).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{}", disk.name());
        }
    });
}

/// Writes the image backwards, page by page; what wrote it.
fn write_scattered(file: &mut dyn WriteFile, mode: QueueMode) -> io::Result<Engine> {
    let image = image();
    let mut queue = file.write_queue(mode, 3)?;
    let pages: Vec<usize> = (0..PAGES).rev().collect();
    for pages in pages.chunks(BUFFER_PAGES) {
        let mut buffer = queue.buffer()?;
        let mut pieces = Vec::new();
        for (slot, page) in pages.iter().enumerate() {
            let start = slot * PAGE;
            let bytes = &image[page * PAGE..(page + 1) * PAGE];
            buffer[start..start + PAGE].copy_from_slice(bytes);
            pieces.push(Piece {
                start,
                len_bytes: PAGE,
                offset: (page * PAGE) as u64,
            });
        }
        queue.submit(buffer, &pieces)?;
    }
    queue.finish()?;
    Ok(queue.engine())
}

/// Pages of which no two are alike.
fn image() -> Vec<u8> {
    const { assert!(BUFFER_PAGES * PAGE <= DirectBuffer::LEN_BYTES) };
    let words = (0..PAGES * PAGE / 8).map(|word| (word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    words.flat_map(u64::to_le_bytes).collect()
}
