//! Making guests.

use std::io;

use hypervisor_bridge::{Overrides, RestoreBreakdown};
use snapshot_format::{SectionOffers, SnapshotRef};

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::guest::{Backend, Guest};
use crate::load::PageReader;
use crate::process::ProcessGuest;

/// What a guest is restored from.
#[expect(missing_debug_implementations, reason = "the reader is the caller's")]
pub struct Image<'i, 'r> {
    /// The configuration that it was started with.
    pub config: GuestConfig,
    /// Its memory.
    pub pages: &'i mut PageReader<'r>,
    /// Its state.
    pub sections: SectionOffers,
    /// The snapshot: what the next diff is relative to.
    pub snapshot: SnapshotRef,
    /// Reasons for an incompatible host that are to be overlooked.
    pub overrides: Overrides,
}

/// A guest that was restored.
#[expect(missing_debug_implementations, reason = "a guest is a machine")]
pub struct Restored {
    /// The guest. It has not run yet.
    pub guest: Box<dyn Guest>,
    /// Where the time went.
    pub time: RestoreBreakdown,
}

impl Backend {
    /// KVM where this process may use it, and else this process.
    #[must_use]
    pub fn detect() -> Self {
        match kvm_available() {
            Ok(()) => Self::Kvm,
            Err(_) => Self::Process,
        }
    }
}

/// Starts a guest at the beginning of its program. It does not run yet.
pub fn start(backend: Backend, config: &GuestConfig) -> Result<Box<dyn Guest>, GuestError> {
    config.check()?;
    match backend {
        Backend::Kvm => platform::boot(config),
        Backend::Process => Ok(Box::new(ProcessGuest::boot(config)?)),
    }
}

/// Restores a guest where a snapshot left it. It does not run yet.
pub fn restore(backend: Backend, image: Image<'_, '_>) -> Result<Restored, GuestError> {
    let Image {
        config,
        pages,
        sections,
        snapshot,
        overrides,
    } = image;
    config.check()?;
    match backend {
        Backend::Kvm => platform::restore(&config, pages, sections, snapshot, &overrides),
        Backend::Process => {
            let (guest, time) =
                ProcessGuest::restore(&config, pages, sections, snapshot, &overrides)?;
            Ok(Restored {
                guest: Box::new(guest),
                time,
            })
        }
    }
}

/// Whether KVM can be used, or why not.
pub fn kvm_available() -> io::Result<()> {
    platform::available()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod platform {
    use super::{
        Guest, GuestConfig, GuestError, Overrides, PageReader, Restored, SectionOffers,
        SnapshotRef, io,
    };
    use crate::kvm::KvmGuest;

    pub(super) fn available() -> io::Result<()> {
        let kvm = kvm_ioctls::Kvm::new();
        kvm.map(drop)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    pub(super) fn boot(config: &GuestConfig) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(KvmGuest::boot(config)?))
    }

    pub(super) fn restore(
        config: &GuestConfig,
        pages: &mut PageReader<'_>,
        sections: SectionOffers,
        snapshot: SnapshotRef,
        overrides: &Overrides,
    ) -> Result<Restored, GuestError> {
        let (guest, time) = KvmGuest::restore(config, pages, sections, snapshot, overrides)?;
        Ok(Restored {
            guest: Box::new(guest),
            time,
        })
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod platform {
    use super::{
        Guest, GuestConfig, GuestError, Overrides, PageReader, Restored, SectionOffers,
        SnapshotRef, io,
    };

    fn none() -> GuestError {
        GuestError::NoKvm {
            source: io::ErrorKind::Unsupported.into(),
        }
    }

    pub(super) fn available() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn boot(_: &GuestConfig) -> Result<Box<dyn Guest>, GuestError> {
        Err(none())
    }

    pub(super) fn restore(
        _: &GuestConfig,
        _: &mut PageReader<'_>,
        _: SectionOffers,
        _: SnapshotRef,
        _: &Overrides,
    ) -> Result<Restored, GuestError> {
        Err(none())
    }
}
