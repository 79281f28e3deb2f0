use std::io::ErrorKind;

use super::*;
use crate::backend::{Backend, FsBackend, MemBackend, RelPath};

const MIB: usize = 1 << 20;

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at >> 9) as u8 ^ (at >> 17) as u8)
        .collect()
}

fn written(backend: &dyn Backend, len: usize) -> Box<dyn ReadFile> {
    let path = RelPath::root().join("file").unwrap();
    let mut file = backend.create(&path).unwrap();
    file.write_all_at(0, &pattern(len)).unwrap();
    backend.open(&path).unwrap()
}

/// Reads all of the file in pieces, as many at once as the queue takes.
fn read_all(file: &dyn ReadFile, len: usize, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut queue = ReadQueue::new(file);
    let mut pieces = (0..len).step_by(piece).enumerate();
    loop {
        while queue.pending() < READ_DEPTH
            && let Some((tag, at)) = pieces.next()
        {
            let buffer = DirectBuffer::new().unwrap();
            let wanted = piece.min(len - at);
            queue.start(buffer, at as u64, wanted, tag).unwrap();
        }
        let Some(filled) = queue.next(true).unwrap() else {
            return bytes;
        };
        let at = filled.tag * piece;
        bytes[at..at + filled.len_bytes].copy_from_slice(&filled.buffer[..filled.len_bytes]);
    }
}

#[test]
fn every_byte_is_read_whatever_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let len = 9 * MIB + 4096;
    let file = written(&FsBackend::open(folder.path()).unwrap(), len);
    assert!(read_all(&*file, len, MIB) == pattern(len), "ext4, 1 MiB");
    assert!(read_all(&*file, len, 4096 * 7) == pattern(len), "small");
    // The description is as it was: reads that are not aligned succeed again.
    let mut odd = [0; 3];
    file.read_exact_at(513, &mut odd).unwrap();
    assert_eq!(odd, pattern(516)[513..]);
    let memory = written(&MemBackend::new(), len);
    assert!(read_all(&*memory, len, MIB) == pattern(len), "memory");
}

#[test]
fn a_file_that_ends_early_is_an_error_and_a_queue_may_be_dropped_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&FsBackend::open(folder.path()).unwrap(), 2 * MIB);
    let mut queue = ReadQueue::new(&*file);
    let buffer = DirectBuffer::new().unwrap();
    let started = queue.start(buffer, MIB as u64, 2 * MIB, 0);
    let ended = started.and_then(|()| queue.next(true).map(drop));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    drop(queue);
    for _ in 0..20 {
        let mut queue = ReadQueue::new(&*file);
        for tag in 0..READ_DEPTH {
            let buffer = DirectBuffer::new().unwrap();
            queue.start(buffer, 0, MIB, tag).unwrap();
        }
    }
    assert!(read_all(&*file, 2 * MIB, MIB) == pattern(2 * MIB));
}
