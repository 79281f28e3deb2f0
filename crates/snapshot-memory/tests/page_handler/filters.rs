//! Both sides under filters made from the lists of their system calls.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use snapshot_memory::syscalls::{self, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{HandlerState, PageHandler};

use crate::rig::{Guest, Handler, Numbered, can_serve, layout, options};

// spec: EMB-01
#[test]
fn a_vmm_under_its_filter() {
    if !can_serve() {
        return;
    }
    let lists = [PROCESS, syscalls::BUS_GUARD, syscalls::HANDLER_WATCH];
    let prepare = || {
        let handler = Handler::start(options(), None);
        let guest = Guest::new();
        (handler, guest)
    };
    under_filter(
        "filters::a_vmm_under_its_filter",
        &lists,
        prepare,
        |(handler, guest)| {
            let (mut watch, events) = guest.hand_over(&handler.socket());
            assert_eq!(guest.read(31), 31);
            assert_eq!(watch.wait(Duration::ZERO), HandlerState::Serving);
            assert!(events.take().is_empty());
            watch.abandon().unwrap();
            assert_eq!(guest.read(599), 0);
            drop(watch);
            std::mem::forget(handler);
        },
    );
}

// spec: EMB-01
#[test]
fn a_handler_under_its_filter() {
    if !can_serve() {
        return;
    }
    let lists = [PROCESS, syscalls::CAPTURE_THREADS, syscalls::PAGE_HANDLER];
    let prepare = || {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("pages.sock");
        // One that was left behind.
        drop(UnixListener::bind(&socket).unwrap());
        let there = socket.clone();
        let guest = Guest::new();
        let vmm = thread::spawn(move || {
            while UnixStream::connect(&there).is_err() {
                thread::yield_now();
            }
            let (watch, _events) = guest.hand_over(&there);
            guest.check_all();
            drop(watch);
        });
        (folder, socket, vmm)
    };
    under_filter(
        "filters::a_handler_under_its_filter",
        &lists,
        prepare,
        |(folder, socket, vmm)| {
            let (layout, damaged) = (layout(), None);
            let source = Arc::new(Numbered { layout, damaged });
            let handler = PageHandler::bind(&socket, source, options().once(true)).unwrap();
            handler.run(&|_| ()).unwrap();
            vmm.join().unwrap();
            drop(handler);
            std::mem::forget(folder);
        },
    );
}
