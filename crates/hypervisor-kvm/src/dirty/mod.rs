//! The pages that vCPUs wrote, by KVM's dirty log or by its dirty rings.

mod entries;
mod log;
mod machine;
#[cfg(test)]
mod recorder;
mod ring;
mod slots;

pub use log::{DirtyLogMode, KvmDirtyLog};
pub use ring::{DirtyRings, KvmDirtyRing, VcpuRings};
pub use slots::KvmSlots;
