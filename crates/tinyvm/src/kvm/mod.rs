//! The guest on KVM.

mod board;
mod boot;
mod extended;
mod guest;
mod kick;
mod lane;
mod outcome;
mod paused;
mod proof;
mod reload;
mod thread;
mod vm;

pub(crate) use guest::KvmGuest;
pub(crate) use reload::reload_image;
pub(crate) use vm::host;

#[cfg(test)]
mod tests;
