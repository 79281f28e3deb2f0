//! x86-64 machines against the KVM of this host: several vCPUs on their own threads, controllers,
//! and state that is easily lost.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests fail by panicking"
)]

mod x86 {
    mod controllers;
    mod machine;
    mod refusals;
    mod registers;
    mod smp;
    mod threads;
}
