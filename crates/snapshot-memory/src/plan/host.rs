//! What this host can do for a restore.

use nix::unistd::{SysconfVar, sysconf};

use super::facts::KernelFacts;
use crate::uffd::{UffdContext, UffdOptions};

impl KernelFacts {
    /// What the kernel of this host lets this process do, by trying it: makes a userfaultfd like
    /// that of a restore with these `options`, and closes it again.
    #[must_use]
    pub fn of_host(options: UffdOptions) -> Self {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let has_userfaultfd = match UffdContext::new(options) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "memory cannot be served");
                false
            }
        };
        Self {
            page_bytes: page_bytes.map_or(0, i64::unsigned_abs),
            // A context asks for all of them, and is refused where one is missing.
            missing: has_userfaultfd,
            missing_memfd: has_userfaultfd,
            minor_memfd: has_userfaultfd,
        }
    }
}
