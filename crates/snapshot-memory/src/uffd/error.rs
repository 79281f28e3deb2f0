//! What can go wrong with a userfaultfd.

use std::io;

use nix::errno::Errno;

/// Making or sharing a userfaultfd failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdError {
    /// The kernel is too old, or built without it.
    #[error("the kernel lacks what is needed of userfaultfd: Linux {since} has it")]
    Lacks {
        /// Which version has all that is needed.
        since: &'static str,
    },
    /// This process may not have one that the kernel's own faults wait for.
    #[error(
        "this process may not serve faults: give it access to /dev/userfaultfd or CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd"
    )]
    NotPermitted,
    /// Another userfaultfd has the memory.
    #[error("the memory has a userfaultfd already: share that one")]
    Busy,
    /// The memory is not mapped in this process.
    #[error("the memory is not mapped in this process")]
    NotMapped,
    /// A descriptor that was received is something else.
    #[error("the descriptor is no userfaultfd")]
    NotUffd,
    /// A descriptor that was received is not ready: its maker registers memory first.
    #[error("the userfaultfd has agreed on nothing with the kernel: its memory is not registered")]
    NotAgreed,
    /// A system call failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UffdError {
    pub(super) fn system(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System {
            call,
            source: errno.into(),
        }
    }
}
