//! VMMs that speak as Firecracker does, and peers that are none.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use snapshot_format::PAGE_BYTES;
use snapshot_memory::{HandlerEvent, HandshakeError, ServedRange, ServiceEnd, ServiceRefused};

use crate::rig::{Guest, Handler, PAGES, await_word, can_serve, child, options, plays, say};

/// The part of the VMM.
const FIRECRACKER: &str = "firecracker::part_firecracker";

/// What Firecracker does when it loads a snapshot with a page handler: one message with the
/// descriptor beside it, and the connection is closed.
fn hand_over_as_firecracker(socket: &Path, guest: &Guest) {
    let region = |range: &ServedRange| {
        format!(
            r#"{{"base_host_virt_addr":{},"size":{},"offset":{},"page_size":4096,"page_size_kib":4096}}"#,
            range.addresses.start,
            range.addresses.end - range.addresses.start,
            range.first.0 * PAGE_BYTES,
        )
    };
    let regions: Vec<_> = guest.ranges.iter().map(region).collect();
    let message = format!("[{}]", regions.join(","));
    send_raw(socket, message.as_bytes(), Some(guest.context.as_fd()));
}

fn send_raw(socket: &Path, message: &[u8], fd: Option<BorrowedFd<'_>>) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    let numbers: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if fd.is_some() { &rights[..] } else { &[] };
    let parts = [IoSlice::new(message)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(message.len()));
    stream
}

/// The part of a VMM that speaks as Firecracker does, and whose guest uses a balloon.
#[test]
fn part_firecracker() {
    let Some(socket) = plays(FIRECRACKER) else {
        return;
    };
    let guest = Guest::new();
    hand_over_as_firecracker(&socket, &guest);
    guest.memory.write(7 * PAGE_BYTES, b"written").unwrap();
    for page in [8, 401] {
        assert_eq!(guest.read(page), page);
        guest.give_back(page);
        assert_eq!(guest.read(page), 0, "page {page} was given back");
        guest
            .memory
            .write((page + 1) * PAGE_BYTES - 8, &page.to_le_bytes())
            .unwrap();
    }
    // One that was never touched is not brought back either.
    guest.give_back(333);
    assert_eq!(guest.read(333), 0);
    guest
        .memory
        .write(334 * PAGE_BYTES - 8, &333_u64.to_le_bytes())
        .unwrap();
    guest.check_all();
    let mut start = [0; 7];
    guest.memory.read(7 * PAGE_BYTES, &mut start).unwrap();
    assert_eq!(&start, b"written");
    say("checked");
    // Until it is told to end, or is killed.
    let _ = io::stdin().read(&mut [0]);
}

// spec: HDL-01
// spec: HDL-06
// spec: SRV-04
#[test]
fn a_vmm_that_speaks_as_firecracker_does_is_served_from_another_process() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().once(true), None);
    let mut vmm = child(FIRECRACKER, &handler.socket());
    let HandlerEvent::Began { pid, pages, .. } = handler.next() else {
        panic!("it did not begin");
    };
    assert_eq!(pid, i32::try_from(vmm.id()).ok());
    assert_eq!(pages, PAGES);
    await_word(&mut vmm, "checked");
    drop(vmm.stdin.take());
    assert!(vmm.wait().unwrap().success());
    let HandlerEvent::Ended { end, stats, .. } = handler.next() else {
        panic!("it did not end");
    };
    assert_eq!(end, ServiceEnd::Gone);
    assert!(
        stats.faults > 0 && stats.demand_pages > 0 && stats.zero_pages > 0,
        "{stats:?}"
    );
    assert_eq!((stats.discarded_pages, stats.lost_pages), (3, 0));
    // Once was enough: it ends by itself.
    handler.thread.join().unwrap();
}

// spec: HDL-07
#[test]
fn several_vms_are_served_beside_peers_that_are_none() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().patience(Duration::from_secs(1)), None);
    let silent = UnixStream::connect(handler.socket()).unwrap();
    send_raw(&handler.socket(), b"GET / HTTP/1.1\r\n\r\n", None);
    send_raw(&handler.socket(), b"[]", Some(silent.as_fd()));
    let mut vmms: Vec<_> = (0..3)
        .map(|_| child(FIRECRACKER, &handler.socket()))
        .collect();
    for vmm in &mut vmms {
        await_word(vmm, "checked");
    }
    for mut vmm in vmms {
        drop(vmm.stdin.take());
        assert!(vmm.wait().unwrap().success());
    }
    let mut counts = BTreeMap::new();
    // Three of them begin and end; three others are refused, the silent one when its time is up.
    for _ in 0..9 {
        let what = match handler.next() {
            HandlerEvent::Began { .. } => "began",
            HandlerEvent::Ended { .. } => "ended",
            HandlerEvent::Refused { error, .. } => match error {
                ServiceRefused::Handshake(HandshakeError::Late(_)) => "late",
                ServiceRefused::Handshake(HandshakeError::NoArray) => "no array",
                ServiceRefused::Handshake(HandshakeError::Count(0)) => "empty",
                other => panic!("{other}"),
            },
            other => panic!("{other:?}"),
        };
        *counts.entry(what).or_insert(0) += 1;
    }
    let expected = [
        ("began", 3),
        ("empty", 1),
        ("ended", 3),
        ("late", 1),
        ("no array", 1),
    ];
    assert_eq!(counts, expected.into_iter().collect());
    handler.end();
    drop(silent);
}

// spec: HDL-08
#[test]
fn the_end_of_a_vmm_that_is_killed_is_noticed_and_the_next_one_is_served() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    for _ in 0..2 {
        let mut vmm = child(FIRECRACKER, &handler.socket());
        assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
        await_word(&mut vmm, "checked");
        vmm.kill().unwrap();
        vmm.wait().unwrap();
        let event = handler.next();
        assert!(
            matches!(
                event,
                HandlerEvent::Ended {
                    end: ServiceEnd::Gone,
                    ..
                }
            ),
            "{event:?}"
        );
    }
    handler.end();
}
