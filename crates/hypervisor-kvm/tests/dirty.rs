//! Dirty sources against the KVM of this host.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

mod dirty {
    mod live;
    mod log;
    mod machine;
    mod memory;
    mod ring;
    mod wp_async;
}
