use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::plan::{Plan, plans};
use super::super::{DirectBuffer, Piece};
use super::*;
use crate::backend::{Backend, FsBackend, MemBackend, RelPath};
use crate::direct::QueueMode;
use crate::skip::skip;

/// A new file on the disk, if that takes direct writes.
fn disk_file(probe: &Probe) -> Option<(TempDir, File)> {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create_new(folder.path().join("data")).unwrap();
    if let Err(error) = open(file.as_fd(), probe, 1) {
        skip(
            "direct-io",
            &format!("{}: {error}", folder.path().display()),
        );
        return None;
    }
    Some((folder, file))
}

fn without_rings() -> Probe {
    let probe = Probe::default();
    let support = Support {
        files: Ok(()),
        has_rings: false,
    };
    probe.0.set(support).unwrap();
    probe
}

fn is_direct(file: &File) -> bool {
    let flags = fcntl(file, FcntlArg::F_GETFL).unwrap();
    OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT)
}

fn read(file: &File) -> Vec<u8> {
    let len = file.metadata().unwrap().len() as usize;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn page(start: usize, offset: u64) -> Piece {
    Piece {
        start,
        len_bytes: 4096,
        offset,
    }
}

#[test]
fn many_scattered_pieces_arrive_whichever_engine_writes() {
    for probe in [Probe::default(), without_rings()] {
        let Some((_folder, file)) = disk_file(&probe) else {
            return;
        };
        let mut queue = open(file.as_fd(), &probe, 3).unwrap();
        let support = probe.0.get().copied();
        let has_rings = support.is_none_or(|support| support.has_rings);
        assert_eq!(queue.engine() == Engine::Direct, has_rings);
        let mut expected = vec![0; 6 << 20];
        for round in 0..12_usize {
            let mut buffer = queue.buffer().unwrap();
            // Every sixth page, from the last to the first: more writes than a ring takes.
            let pieces: Vec<Piece> = (0..128)
                .rev()
                .map(|index| page(index * 16384, ((index * 12 + round) * 4096) as u64))
                .collect();
            for piece in &pieces {
                let byte = (piece.offset / 4096 % 251) as u8 + 1;
                let at = piece.offset as usize;
                buffer[piece.start..piece.start + 4096].fill(byte);
                expected[at..at + 4096].fill(byte);
            }
            queue.submit(buffer, &pieces).unwrap();
        }
        queue.finish().unwrap();
        assert!(is_direct(&file));
        drop(queue);
        assert!(read(&file) == expected);
    }
}

// spec: MEM-22
#[test]
fn a_queue_that_is_gone_leaves_a_file_for_writes_of_any_length() {
    for probe in [Probe::default(), without_rings()] {
        let Some((_folder, file)) = disk_file(&probe) else {
            return;
        };
        let mut queue = open(file.as_fd(), &probe, 1).unwrap();
        queue.finish().unwrap();
        drop(queue);
        assert!(!is_direct(&file));
        file.write_all_at(b"odd", 1).unwrap();
        assert_eq!(read(&file), b"\0odd");
    }
}

#[test]
fn a_queue_that_is_dropped_waits_for_what_is_under_way() {
    let Some((_folder, file)) = disk_file(&Probe::default()) else {
        return;
    };
    let len = 8 * DirectBuffer::LEN_BYTES;
    let mut queue = open(file.as_fd(), &Probe::default(), 8).unwrap();
    for number in 0..8 {
        let mut buffer = queue.buffer().unwrap();
        buffer.fill(number as u8 + 1);
        let whole = Piece {
            start: 0,
            len_bytes: DirectBuffer::LEN_BYTES,
            offset: (number * DirectBuffer::LEN_BYTES) as u64,
        };
        queue.submit(buffer, &[whole]).unwrap();
    }
    drop(queue);
    assert!(!is_direct(&file));
    let bytes = read(&file);
    assert_eq!(bytes.len(), len);
    let buffers = bytes.chunks(DirectBuffer::LEN_BYTES).zip(1..);
    for (bytes, number) in buffers {
        assert!(bytes.iter().all(|byte| *byte == number), "{number}");
    }
}

#[test]
fn a_thread_may_end_while_its_writes_are_under_way() {
    let Some((_folder, file)) = disk_file(&Probe::default()) else {
        return;
    };
    let mut queue = open(file.as_fd(), &Probe::default(), 2).unwrap();
    let pieces: Vec<Piece> = (0..64_usize)
        .map(|index| page(index * 4096, (index * 3 * 4096) as u64))
        .collect();
    for round in 1..4 {
        let queue = &mut queue;
        let pieces = &pieces;
        let submit = move || {
            let mut buffer = queue.buffer().unwrap();
            buffer.fill(round);
            let place = |piece: &Piece| Piece {
                offset: piece.offset + u64::from(round - 1) * 4096,
                ..*piece
            };
            let pieces: Vec<Piece> = pieces.iter().map(place).collect();
            queue.submit(buffer, &pieces).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(submit).join()).unwrap();
    }
    queue.finish().unwrap();
    drop(queue);
    let expected: Vec<u8> = (0..64 * 3).flat_map(|page| [page % 3 + 1; 4096]).collect();
    assert!(read(&file) == expected);
}

#[test]
fn an_error_of_the_kernel_comes_late_and_stays() {
    let Some((folder, file)) = disk_file(&Probe::default()) else {
        return;
    };
    drop(file);
    let file = File::open(folder.path().join("data")).unwrap();
    let mut queue = open(file.as_fd(), &Probe::default(), 2).unwrap();
    let buffer = queue.buffer().unwrap();
    let submitted = queue.submit(buffer, &[page(0, 0)]);
    let error = submitted.and_then(|()| queue.finish()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    assert!(queue.finish().is_err());
}

// spec: MEM-18
#[test]
fn a_file_system_of_memory_is_refused_by_type_or_written_through_its_cache() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        skip("tmpfs", "/dev/shm cannot be written to");
        return;
    };
    let backend = FsBackend::open(folder.path()).unwrap();
    if backend.file_system().unwrap().name != "tmpfs" {
        skip("tmpfs", "/dev/shm is no tmpfs");
        return;
    }
    let mut file = backend
        .create(&RelPath::root().join("data").unwrap())
        .unwrap();
    let error = file.write_queue(QueueMode::Direct, 1).unwrap_err();
    assert_eq!(DirectRefused::of(&error), Some(DirectRefused::NoDevice));
    let mut queue = file.write_queue(QueueMode::PreferDirect, 1).unwrap();
    assert_eq!(queue.engine(), Engine::Buffered);
    let buffer = queue.buffer().unwrap();
    queue.submit(buffer, &[page(0, 8192)]).unwrap();
    queue.finish().unwrap();
    drop(queue);
    let read = backend
        .open(&RelPath::root().join("data").unwrap())
        .unwrap();
    assert_eq!(read.len().unwrap(), 12288);
}

// spec: MEM-18
#[test]
fn what_the_first_file_told_holds_for_the_next() {
    let probe = Probe::default();
    let refused = Support {
        files: Err(DirectRefused::LargeBlocks),
        has_rings: true,
    };
    probe.0.set(refused).unwrap();
    let file = tempfile::tempfile().unwrap();
    let error = open(file.as_fd(), &probe.clone(), 1).unwrap_err();
    assert_eq!(DirectRefused::of(&error), Some(DirectRefused::LargeBlocks));
    assert!(!is_direct(&file));

    let Some((_folder, file)) = disk_file(&Probe::default()) else {
        return;
    };
    let queue = open(file.as_fd(), &without_rings(), 1).unwrap();
    assert_eq!(queue.engine(), Engine::DirectSync);
}

#[test]
fn only_an_answer_that_would_come_again_is_remembered() {
    for errno in [libc::ENOSYS, libc::EPERM, libc::EINVAL] {
        assert!(is_final(&io::Error::from_raw_os_error(errno)));
    }
    for errno in [libc::ENOMEM, libc::EMFILE, libc::EAGAIN] {
        assert!(!is_final(&io::Error::from_raw_os_error(errno)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // spec: MEM-19
    #[test]
    fn every_queue_gives_the_file_of_the_plan(plan in plans(), buffers in 1..4_usize) {
        let memory = Plan::memory();
        let expected = plan.expected();
        let folder = tempfile::tempdir().unwrap();
        let disk: Box<dyn Backend> = Box::new(FsBackend::open(folder.path()).unwrap());
        let held: Box<dyn Backend> = Box::new(MemBackend::new());
        for backend in [disk, held] {
            for (name, mode) in [("a", QueueMode::Buffered), ("b", QueueMode::PreferDirect)] {
                let path = RelPath::root().join(name).unwrap();
                let mut file = backend.create(&path).unwrap();
                let mut queue = file.write_queue(mode, buffers).unwrap();
                plan.submit(&mut *queue, &memory).unwrap();
                queue.finish().unwrap();
                drop(queue);
                let file = backend.open(&path).unwrap();
                let mut found = vec![0; file.len().unwrap() as usize];
                file.read_exact_at(0, &mut found).unwrap();
                prop_assert!(found == expected, "{:?}", mode);
            }
        }
        let file = tempfile::tempfile().unwrap();
        if let Ok(mut queue) = open(file.as_fd(), &without_rings(), buffers) {
            plan.submit(&mut *queue, &memory).unwrap();
            queue.finish().unwrap();
            drop(queue);
            prop_assert!(read(&file) == expected);
        }
    }
}
