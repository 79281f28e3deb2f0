//! The stand-in for hosts without KVM: a thread of this process does what the program would do,
//! and is captured through the same sequence.

mod cpu;
mod guest;
mod paused;
mod reload;
mod state;

pub(crate) use guest::ProcessGuest;
pub(crate) use reload::reload_image;
pub(crate) use state::{fingerprint as host, take_registers};
