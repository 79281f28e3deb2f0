//! What a VMM with a watch is told: of lost pages, of the end of its handler, of memory that is whole.

use std::sync::Arc;
use std::thread;

use snapshot_format::PageRange;
use snapshot_memory::{
    Background, FailureCause, HandlerEvent, HandlerOptions, HandlerState, PageHandler,
    ServeOptions, ServiceEnd,
};

use crate::rig::{
    Guest, Handler, LIMIT, Numbered, PAGES, await_word, can_serve, child, layout, options, plays,
    say,
};

/// The part of a handler of another process.
const HANDLER: &str = "watch::part_handler";

/// The part of a handler that is going to be killed.
#[test]
fn part_handler() {
    let Some(socket) = plays(HANDLER) else {
        return;
    };
    let layout = layout();
    let damaged = None;
    let handler = PageHandler::bind(&socket, Arc::new(Numbered { layout, damaged }), options());
    let handler = handler.unwrap();
    say("listening");
    handler.run(&|_| ()).unwrap();
}

// spec: HDL-09
// spec: HDL-10
#[test]
fn pages_that_the_handler_cannot_read_are_told_to_the_vmm_and_held() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), Some(42));
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&handler.socket());
    assert_eq!(guest.read(7), 7);
    let reader = guest.reader(42);
    let failures = loop {
        assert_eq!(watch.wait(LIMIT), HandlerState::Serving);
        let failures = events.take();
        if !failures.is_empty() {
            break failures;
        }
    };
    assert_eq!(failures[0].pages, PageRange::new(42, 1));
    let FailureCause::Source(cause) = &failures[0].cause else {
        panic!("{:?}", failures[0]);
    };
    assert!(cause.to_string().contains("the disk is on fire"), "{cause}");
    assert!(!reader.is_finished());
    assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
    assert!(matches!(handler.next(), HandlerEvent::Lost { .. }));
    // Others are still served.
    assert_eq!(guest.read(599), 599);
    watch.abandon().unwrap();
    assert_eq!(reader.join().unwrap(), 0);
    handler.end();
}

// spec: HDL-11
#[test]
fn a_handler_that_is_killed_is_an_event_and_no_wrong_byte() {
    if !can_serve() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pages.sock");
    let mut handler = child(HANDLER, &socket);
    await_word(&mut handler, "listening");
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&socket);
    for page in [1, 2, 451] {
        assert_eq!(guest.read(page), page);
    }
    assert_eq!(watch.look(), HandlerState::Serving);
    handler.kill().unwrap();
    handler.wait().unwrap();
    assert_eq!(watch.wait(LIMIT), HandlerState::Gone);
    let failures = events.take();
    assert_eq!(failures.len(), 1);
    assert!(
        matches!(failures[0].cause, FailureCause::ServerGone),
        "{failures:?}"
    );
    assert_eq!(failures[0].pages, PageRange::new(0, PAGES));
    // It is told once.
    assert_eq!(watch.look(), HandlerState::Gone);
    assert!(events.take().is_empty());
    let reader = guest.reader(300);
    let giving = {
        let memory = Guest {
            memory: Arc::clone(&guest.memory),
            context: Arc::clone(&guest.context),
            ranges: Vec::new(),
        };
        thread::spawn(move || memory.give_back(2))
    };
    // What is there stays readable; what is not waits, and so does who gives pages back.
    assert_eq!(guest.read(1), 1);
    assert!(!reader.is_finished());
    watch.abandon().unwrap();
    assert_eq!(reader.join().unwrap(), 0);
    giving.join().unwrap();
}

// spec: HDL-12
#[test]
fn memory_that_is_complete_needs_no_handler_any_more() {
    if !can_serve() {
        return;
    }
    let serve = ServeOptions::new(0).background(Background::default());
    let options = HandlerOptions::new(serve).finishes(true);
    let handler = Handler::start(options, None);
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&handler.socket());
    assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
    while watch.wait(LIMIT) == HandlerState::Serving {}
    assert_eq!(watch.look(), HandlerState::Finished);
    let event = handler.next();
    assert!(
        matches!(
            event,
            HandlerEvent::Ended {
                end: ServiceEnd::Complete,
                ..
            }
        ),
        "{event:?}"
    );
    handler.end();
    guest.check_all();
    guest.give_back(9);
    assert_eq!(guest.read(9), 0);
    assert_eq!(watch.look(), HandlerState::Finished);
    assert!(events.take().is_empty());
}

// spec: HDL-13
#[test]
fn a_vm_of_a_process_that_goes_on_is_let_go() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    for _ in 0..3 {
        let guest = Guest::new();
        let (watch, _events) = guest.hand_over(&handler.socket());
        guest.check_all();
        drop(watch);
        assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
        let event = handler.next();
        assert!(
            matches!(
                event,
                HandlerEvent::Ended {
                    end: ServiceEnd::Bye,
                    ..
                }
            ),
            "{event:?}"
        );
    }
    handler.end();
}
