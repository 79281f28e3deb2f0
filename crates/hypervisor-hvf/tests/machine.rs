//! Machines of the fake are saved and brought back: everything that the adapter promises.
#![expect(missing_docs, reason = "tests need no docs")]

#[path = "machine/order.rs"]
mod order;
#[path = "machine/refusals.rs"]
mod refusals;
mod rig;
#[path = "machine/round_trip.rs"]
mod round_trip;
#[path = "machine/stopping.rs"]
mod stopping;
#[path = "machine/time.rs"]
mod time;
