//! The protocol of collecting garbage, as a model whose every interleaving is looked at.
//!
//! The steps are those of the specification. Between any two of them any other process may run, and
//! each may stop for ever, which is never running again, or die, which lets go of its locks.

mod roles;
mod state;

use std::collections::HashSet;

use roles::{Part, Protocol};
use state::{Place, Role, State, files_of};

/// A base, its child, and processes that start at the same time.
fn scenarios() -> Vec<State> {
    use Place::{Live, Nowhere, Trash};
    let read = Role::Reader { of: 1 };
    let write_over = |parent| Role::Writer { parent, child: 2 };
    let write = write_over(1);
    let delete = |of| Role::Deleter { of };
    let undelete = |of| Role::Undeleter { of };
    let consolidate = Role::Consolidator { of: 1 };
    let collect = Role::Collector;
    vec![
        State::new(Live, Live, &[write, delete(1), delete(0), collect]),
        State::new(
            Live,
            Live,
            &[read, delete(1), delete(0), undelete(1), collect],
        ),
        State::new(Trash, Live, &[read, consolidate, collect, collect]),
        State::new(Trash, Live, &[write, consolidate, delete(1), collect]),
        State::new(Trash, Live, &[write, consolidate, undelete(0), collect]),
        State::new(Trash, Trash, &[undelete(1), undelete(0), collect, collect]),
        State::new(Trash, Trash, &[undelete(1), write, read, collect]),
        // Alone in the trash, brought back, used, and deleted again.
        State::new(
            Trash,
            Nowhere,
            &[undelete(0), write_over(0), delete(0), collect],
        ),
    ]
}

/// Visits every state that can be reached, and gives how many there are; or the first violation.
fn explore(start: State, protocol: Protocol) -> Result<usize, String> {
    let mut known = HashSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        if let Some(violation) = state.violation() {
            return Err(violation);
        }
        if state.processes.iter().all(|process| process.has_ended) {
            check_settled(&state, protocol)?;
        }
        for who in 0..state.processes.len() {
            let mut dead = state.clone();
            dead.end(who);
            for next in state.step(who, protocol).into_iter().chain([dead]) {
                if known.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    Ok(known.len())
}

/// That one more collection leaves what one that nothing went wrong with leaves.
fn check_settled(ended: &State, protocol: Protocol) -> Result<(), String> {
    let mut state = ended.clone();
    let process = &mut state.processes[0];
    (process.role, process.has_ended) = (Role::Collector, false);
    while let Some(next) = state.step(0, protocol) {
        state = next;
        if let Some(violation) = state.violation() {
            return Err(violation);
        }
    }
    let files = |of: usize| state.files & files_of(of);
    let needed = |of: usize| {
        let others = state.snapshots.iter().enumerate();
        let mut others = others.filter(|(other, snapshot)| *other != of && snapshot.is_there());
        others.any(|(_, snapshot)| snapshot.counting() & files_of(of) != 0)
    };
    for (of, snapshot) in state.snapshots.iter().enumerate() {
        let is_clean = match snapshot.place {
            Place::Nowhere => true,
            Place::Live => snapshot.generations.iter().flatten().count() == 1,
            Place::Trash => needed(of),
            Place::Gone => files(of) == 0,
        };
        if !is_clean {
            return Err(format!("garbage of snapshot {of} remains: {state:?}"));
        }
    }
    Ok(())
}

// spec: GC-08
// spec: GC-14
#[test]
fn nothing_that_is_needed_goes_however_processes_interleave_stop_and_die() {
    for (number, start) in scenarios().into_iter().enumerate() {
        match explore(start, Protocol { lacks: None }) {
            Ok(states) => eprintln!("scenario {number}: {states} states"),
            Err(violation) => unreachable!("scenario {number}: {violation}"),
        }
    }
}

// spec: GC-15
#[test]
fn each_part_of_the_protocol_is_needed() {
    for part in Part::ALL {
        let protocol = Protocol { lacks: Some(part) };
        let mut scenarios = scenarios().into_iter();
        assert!(
            scenarios.any(|start| explore(start, protocol).is_err()),
            "{part:?} is not needed"
        );
    }
}
