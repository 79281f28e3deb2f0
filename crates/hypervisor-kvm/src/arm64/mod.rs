//! KVM on aarch64.

mod abi;
mod fingerprint;
mod fit;
mod gic;
mod gicv2;
mod gicv3;
mod interface;
mod machine;
mod policy;
mod registers;
mod restore;
mod save;
mod timers;
mod trial;
mod vectors;

pub use machine::{KernelDevices, KvmMachine, KvmOptions};
pub use policy::RegisterPolicy;

#[cfg(test)]
mod tests;
