//! Several VMs of one handler, and what they do to each other.

use snapshot_memory::{FailureCause, HandlerEvent};

use crate::rig::{Guest, Handler, can_serve, options};

// spec: HDL-07
#[test]
fn a_vm_that_hides_memory_from_the_handler_waits_for_itself_only() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    let (mut hiding, honest) = (Guest::new(), Guest::new());
    let all = hiding.ranges.clone();
    hiding.ranges.truncate(1);
    let (_watch, _events) = hiding.hand_over(&handler.socket());
    let (_other_watch, _other_events) = honest.hand_over(&handler.socket());
    let hidden = hiding.reader(500);
    loop {
        match handler.next() {
            HandlerEvent::Began { .. } => {}
            HandlerEvent::Lost { failure, .. } => {
                assert!(
                    matches!(failure.cause, FailureCause::Place { .. }),
                    "{failure:?}"
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(hiding.read(399), 399);
    honest.check_all();
    assert!(!hidden.is_finished());
    hiding.context.unregister(&all).unwrap();
    assert_eq!(hidden.join().unwrap(), 0);
    handler.end();
}

#[test]
fn at_most_so_many_vms_are_served_at_once() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().machines(1), None);
    let first = Guest::new();
    let (watch, _events) = first.hand_over(&handler.socket());
    assert_eq!(first.read(1), 1);
    let second = Guest::new();
    let (_second_watch, _second_events) = second.hand_over(&handler.socket());
    let reader = second.reader(2);
    assert!(matches!(
        handler.next(),
        HandlerEvent::Began { machine: 1, .. }
    ));
    assert_eq!(first.read(99), 99);
    assert!(!reader.is_finished());
    drop(watch);
    assert_eq!(reader.join().unwrap(), 2);
    assert!(matches!(
        handler.next(),
        HandlerEvent::Ended { machine: 1, .. }
    ));
    assert!(matches!(
        handler.next(),
        HandlerEvent::Began { machine: 2, .. }
    ));
    handler.end();
}
