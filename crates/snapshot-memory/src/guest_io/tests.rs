use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::*;

/// 8-byte aligned memory that plays the guest.
fn words(count: usize) -> Vec<AtomicU64> {
    (0..count as u64)
        .map(|i| AtomicU64::new(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect()
}

fn run(words: &[AtomicU64]) -> HostRun<'_> {
    // SAFETY: the words outlive the run, are aligned, and are only reached atomically.
    unsafe { HostRun::new(words.as_ptr().cast(), size_of_val(words)) }
}

fn bytes(words: &[AtomicU64]) -> Vec<u8> {
    let mut out = vec![0; size_of_val(words)];
    run(words).copy_to(0, &mut out);
    out
}

#[test]
fn every_offset_and_length_is_copied_exactly() {
    let memory = words(8);
    let all = bytes(&memory);
    for from in 0..all.len() {
        for to in from..=all.len() {
            let mut out = vec![0xAA; to - from];
            run(&memory).copy_to(from, &mut out);
            assert_eq!(out, all[from..to], "{from}..{to}");
        }
    }
}

#[test]
fn every_offset_and_length_is_stored_exactly() {
    for from in 0..32 {
        for to in from..=32 {
            let memory = words(4);
            let mut expected = bytes(&memory);
            let value: Vec<u8> = (0..to - from).map(|i| 0xE0 | i as u8).collect();
            expected[from..to].copy_from_slice(&value);
            let target = memory.as_ptr().cast::<u8>().cast_mut().wrapping_add(from);
            // SAFETY: within the words, which are atomics.
            unsafe { store(target, &value) };
            assert_eq!(bytes(&memory), expected, "{from}..{to}");
        }
    }
}

#[test]
#[should_panic(expected = "beyond the run")]
fn a_copy_beyond_the_run_is_refused() {
    let memory = words(1);
    run(&memory).copy_to(1, &mut [0; 8]);
}

#[test]
fn more_runs_than_one_call_takes_are_written_in_order() {
    let memory = words(3 * MAX_VECTORS);
    let runs: Vec<_> = memory.chunks(1).map(run).collect();
    let file = tempfile::tempfile().unwrap();
    write_runs_at(file.as_fd(), 5, &runs).unwrap();
    let mut found = vec![0; size_of_val(&memory[..])];
    file.read_exact_at(&mut found, 5).unwrap();
    assert_eq!(found, bytes(&memory));
}

#[test]
fn a_partial_write_goes_on_in_the_middle_of_a_run() {
    let memory = words(6);
    let all = bytes(&memory);
    for written in 0..=all.len() {
        let mut vectors: Vec<_> = memory
            .chunks(2)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_ptr().cast_mut().cast(),
                iov_len: size_of_val(chunk),
            })
            .collect();
        let next = advance(&mut vectors, written);
        let left: usize = vectors[next..].iter().map(|v| v.iov_len).sum();
        assert_eq!(left, all.len() - written);
        if let Some(vector) = vectors.get(next) {
            let base = memory.as_ptr().addr();
            assert_eq!(vector.iov_base.addr(), base + written);
        }
    }
}

#[test]
fn a_failed_write_keeps_the_reason() {
    let memory = words(1);
    let read_only = File::open("/dev/null").unwrap();
    let error = write_runs_at(read_only.as_fd(), 0, &[run(&memory)]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}
