use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::*;
use crate::uffd::UffdError;

const PATIENCE: Duration = Duration::from_millis(100);

const MESSAGE: &str = r#"[{"base_host_virt_addr":1879048192,"size":8192,"offset":4096}]"#;

fn layout() -> MemoryLayout {
    MemoryLayout::single(1 << 20).unwrap()
}

/// What the handler makes of a peer that sends `message` with `files` and does not hang up.
fn refused(message: &[u8], files: &[File]) -> HandshakeError {
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&theirs, message, files);
    receive(&ours, &layout(), PATIENCE).unwrap_err()
}

fn send(stream: &UnixStream, message: &[u8], files: &[File]) {
    let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if files.is_empty() {
        &[]
    } else {
        rights.as_slice()
    };
    let parts = [io::IoSlice::new(message)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(message.len()));
}

fn files(count: usize) -> Vec<File> {
    (0..count)
        .map(|_| File::open("/dev/null").unwrap())
        .collect()
}

// spec: HDL-03
#[test]
fn exactly_one_descriptor_must_come_and_be_a_userfaultfd() {
    let none = refused(MESSAGE.as_bytes(), &[]);
    assert!(matches!(none, HandshakeError::Descriptors(0)), "{none:?}");
    let two = refused(MESSAGE.as_bytes(), &files(2));
    assert!(matches!(two, HandshakeError::Descriptors(2)), "{two:?}");
    let all = refused(MESSAGE.as_bytes(), &files(253));
    assert!(matches!(all, HandshakeError::Descriptors(253)), "{all:?}");
    let other = refused(MESSAGE.as_bytes(), &files(1));
    assert!(
        matches!(other, HandshakeError::Uffd(UffdError::NotUffd)),
        "{other:?}"
    );
}

// spec: HDL-03
#[test]
fn descriptors_that_come_apart_are_counted_together() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (first, last) = MESSAGE.as_bytes().split_at(10);
    send(&theirs, first, &files(1));
    send(&theirs, last, &files(1));
    let error = receive(&ours, &layout(), PATIENCE).unwrap_err();
    assert!(matches!(error, HandshakeError::Descriptors(2)), "{error:?}");
}

// spec: HDL-04
#[test]
fn a_peer_that_says_nothing_or_half_of_it_is_given_up() {
    for half in ["", " ", "[", &MESSAGE[..MESSAGE.len() - 1]] {
        let error = refused_or_silent(half);
        assert!(
            matches!(error, HandshakeError::Late(PATIENCE)),
            "{half:?}: {error:?}"
        );
    }
}

fn refused_or_silent(message: &str) -> HandshakeError {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(message.as_bytes()).unwrap();
    receive(&ours, &layout(), PATIENCE).unwrap_err()
}

// spec: HDL-04
#[test]
fn a_peer_that_goes_on_byte_by_byte_gains_no_time() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let dripping = thread::spawn(move || {
        theirs.write_all(b"[").unwrap();
        // Ends when the other side has given up.
        while theirs.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let error = receive(&ours, &layout(), PATIENCE).unwrap_err();
    assert!(matches!(error, HandshakeError::Late(PATIENCE)), "{error:?}");
    drop(ours);
    dripping.join().unwrap();
}

// spec: HDL-04
#[test]
fn a_peer_that_never_ends_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let flooding = thread::spawn(move || {
        theirs.write_all(b"[").unwrap();
        while theirs.write_all(&[b' '; 4096]).is_ok() {}
    });
    let error = receive(&ours, &layout(), Duration::from_mins(1)).unwrap_err();
    assert!(
        matches!(error, HandshakeError::TooLong(MAX_BYTES)),
        "{error:?}"
    );
    drop(ours);
    flooding.join().unwrap();
}

// spec: HDL-04
#[test]
fn a_peer_that_hangs_up_or_talks_of_something_else_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&theirs, b"[{", &files(1));
    drop(theirs);
    let error = receive(&ours, &layout(), PATIENCE).unwrap_err();
    assert!(matches!(error, HandshakeError::Ended(2)), "{error:?}");
    for other in ["GET / HTTP/1.1", "{}", "\0\0\0\0", "]"] {
        let error = refused(other.as_bytes(), &[]);
        assert!(
            matches!(error, HandshakeError::NoArray),
            "{other}: {error:?}"
        );
    }
}

#[test]
fn the_end_of_an_array_is_found_however_it_is_cut() {
    let text = br#" [{"a":"]\"}","b":[1,[2]]}]rest"#;
    let end = text.len() - 4;
    for cut in 0..text.len() {
        let (first, last) = text.split_at(cut);
        let mut array = ArrayEnd::default();
        let found = array.find(first).unwrap();
        let found = found.or_else(|| array.find(last).unwrap().map(|len| cut + len));
        assert_eq!(found, Some(end), "cut at {cut}");
    }
}
