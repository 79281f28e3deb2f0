//! KVM on x86-64.

mod clock;
mod convert;
mod fingerprint;
mod interface;
mod machine;
mod msrs;
mod restore;
mod save;
mod vm;

pub use machine::{KvmMachine, KvmOptions};
pub use msrs::MsrPolicy;
pub use vm::KernelDevices;

#[cfg(test)]
mod tests;
