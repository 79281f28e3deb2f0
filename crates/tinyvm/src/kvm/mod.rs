//! The guest on KVM.

mod guest;
mod kick;
mod paused;
mod thread;
mod vm;

pub(crate) use guest::KvmGuest;

#[cfg(test)]
mod tests;
