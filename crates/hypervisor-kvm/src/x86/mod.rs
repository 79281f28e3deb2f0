//! KVM on x86-64.

mod check;
mod clock;
mod convert;
mod fingerprint;
mod interface;
mod machine;
mod moving;
mod msr_policy;
mod msrs;
mod nested;
mod options;
mod rehearsal;
mod report;
mod restore;
mod save;
mod tsc;
mod vm;

pub use machine::KvmMachine;
pub use moving::MOVING_FIELDS;
pub use msr_policy::{DroppedMsr, MsrPolicy};
pub use options::KvmOptions;
pub use rehearsal::Rehearsal;
pub use report::RestoreReport;
pub use tsc::{TscOutcome, TscPolicy};
pub use vm::{Irqchip, KernelDevices};

#[cfg(test)]
mod tests;
