#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

mod choices;
mod exact;
mod order;
mod told;
