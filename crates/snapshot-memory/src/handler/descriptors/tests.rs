use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;

use super::*;

#[test]
fn bytes_and_a_descriptor_arrive_closed_on_exec() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"guest").unwrap();
    file.rewind().unwrap();
    send(&theirs, b"hello", file.as_fd()).unwrap();
    drop(theirs);
    let (mut bytes, mut came) = ([0; 64], Vec::new());
    assert_eq!(receive(&ours, &mut bytes, &mut came).unwrap(), 5);
    assert_eq!((&bytes[..5], came.len()), (&b"hello"[..], 1));
    let fd = came.pop().unwrap();
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "guest");
    assert_eq!(receive(&ours, &mut bytes, &mut came).unwrap(), 0);
}

#[test]
fn nothing_to_receive_is_told_at_once() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = receive(&ours, &mut [0; 8], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn more_bytes_than_a_socket_holds_arrive_with_one_descriptor() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let expected = sent.clone();
    let sending = std::thread::spawn(move || {
        let file = File::open("/dev/null").unwrap();
        send(&theirs, &sent, file.as_fd()).unwrap();
    });
    let (mut bytes, mut came) = (vec![0; 1 << 16], Vec::new());
    let mut received = Vec::new();
    while received.len() < expected.len() {
        match receive(&ours, &mut bytes, &mut came) {
            Ok(len) => received.extend_from_slice(&bytes[..len]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                std::thread::yield_now();
            }
        }
    }
    sending.join().unwrap();
    assert!(received == expected);
    assert_eq!(came.len(), 1);
}
