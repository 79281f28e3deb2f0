//! Machines of the fake are saved and brought back: everything that the adapter promises.
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

mod machine {
    mod order;
    mod refusals;
    mod rig;
    mod round_trip;
    mod stopping;
    mod time;
}
