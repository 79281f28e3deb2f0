use super::*;
use crate::guest_io::HostRun;

const LEN: usize = 16 << 12;

fn outcome_of(result: Result<usize, i32>, is_direct: bool) -> Outcome<'static> {
    static BYTES: [u8; LEN] = [7; LEN];
    let mut write = Write::of_run(HostRun::of_bytes(&BYTES), 1 << 20);
    write.is_direct = is_direct;
    let result = result.map_err(io::Error::from_raw_os_error);
    Outcome::of(Completion { write, result })
}

fn failure(outcome: &Outcome<'_>) -> Option<i32> {
    match outcome {
        Outcome::Failed(error) => error.raw_os_error(),
        _ => None,
    }
}

/// The write that is to be started again as it is.
fn again(outcome: Outcome<'_>) -> Option<Write<'_>> {
    match outcome {
        Outcome::Again(write) => Some(write),
        _ => None,
    }
}

/// What is left of a write: its first byte, in the memory and in the file, and its length.
fn rest(write: &Write<'_>) -> (u64, usize) {
    (write.offset(), write.run().len_bytes())
}

#[test]
fn a_whole_write_is_done() {
    assert!(matches!(outcome_of(Ok(LEN), true), Outcome::Done(_)));
    assert!(matches!(outcome_of(Ok(LEN), false), Outcome::Done(_)));
}

#[test]
fn a_short_write_goes_on_where_it_ended() {
    for is_direct in [true, false] {
        let write = again(outcome_of(Ok(4096), is_direct)).unwrap();
        assert_eq!(rest(&write), ((1 << 20) + 4096, LEN - 4096));
    }
    let write = again(outcome_of(Ok(5), false)).unwrap();
    assert_eq!(rest(&write), ((1 << 20) + 5, LEN - 5));
}

#[test]
fn a_rest_that_is_not_aligned_leaves_the_direct_way() {
    let outcome = outcome_of(Ok(4097), true);
    let Outcome::Refused(write) = &outcome else {
        unreachable!("{outcome:?}");
    };
    assert_eq!(rest(write), ((1 << 20) + 4097, LEN - 4097));
}

// spec: MEM-20
#[test]
fn only_a_direct_write_may_be_refused() {
    for errno in [libc::EINVAL, libc::EOPNOTSUPP] {
        assert!(matches!(outcome_of(Err(errno), true), Outcome::Refused(_)));
        assert_eq!(failure(&outcome_of(Err(errno), false)), Some(errno));
    }
}

#[test]
fn what_is_interrupted_is_started_again_but_not_for_ever() {
    for errno in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
        let mut starts = 0;
        let mut next = outcome_of(Err(errno), true);
        while let Outcome::Again(write) = next {
            assert_eq!(rest(&write), (1 << 20, LEN));
            let result = Err(io::Error::from_raw_os_error(errno));
            next = Outcome::of(Completion { write, result });
            starts += 1;
        }
        assert_eq!((failure(&next), starts), (Some(errno), MAX_IDLE_STARTS));
    }
}

#[test]
fn bytes_that_were_written_give_new_patience() {
    let mut next = outcome_of(Err(libc::EAGAIN), true);
    for _ in 0..4 * MAX_IDLE_STARTS {
        let write = again(next).unwrap();
        let result = if write.idle_starts == MAX_IDLE_STARTS - 1 && rest(&write).1 > 4096 {
            Ok(4096)
        } else {
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        };
        next = Outcome::of(Completion { write, result });
    }
    assert!(matches!(next, Outcome::Again(_)));
}

#[test]
fn nothing_written_is_a_full_device_and_other_errors_are_as_they_are() {
    assert_eq!(failure(&outcome_of(Ok(0), true)), Some(libc::ENOSPC));
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        assert_eq!(failure(&outcome_of(Err(errno), true)), Some(errno));
    }
}
