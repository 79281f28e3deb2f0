//! Making guests.

use std::io;

use hypervisor_bridge::{Overrides, PageReader, ReloadReport, RestoreOutcome};
use snapshot_format::state::{Fingerprint, Registers, VcpuX86};
use snapshot_format::{SectionOffers, SnapshotRef};

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::guest::{Backend, Guest};
use crate::planned::PlannedPages;
use crate::process::ProcessGuest;
use crate::proof::Program;
use crate::purpose::Purpose;
use crate::served::ServedPages;

/// What a guest is restored from.
#[expect(missing_debug_implementations, reason = "the reader is the caller's")]
pub struct Image<'i, 'r> {
    /// The configuration that it was started with.
    pub config: GuestConfig,
    /// Its memory.
    pub pages: ImagePages<'i, 'r>,
    /// Its state.
    pub sections: SectionOffers,
    /// The snapshot: what the next diff is relative to.
    pub snapshot: SnapshotRef,
    /// What the restored guest is.
    pub purpose: Purpose,
    /// Reasons for an incompatible host that are to be overlooked.
    pub overrides: Overrides,
}

/// How a guest gets its memory.
#[expect(missing_debug_implementations, reason = "the reader is the caller's")]
pub enum ImagePages<'i, 'r> {
    /// All of it is read before it runs.
    Copied(&'i mut PageReader<'r>),
    /// Each page is read when it touches it, or before if there is time.
    Served(ServedPages),
    /// As a plan says.
    Planned(PlannedPages),
}

impl ImagePages<'_, '_> {
    /// Reads them in `use_them`, which takes them one way or the other.
    pub(crate) fn read<T>(self, use_them: impl FnOnce(&mut PageReader<'_>) -> T) -> T {
        match self {
            Self::Copied(reader) => use_them(reader),
            Self::Served(pages) => {
                use_them(&mut |range, out| Ok(pages.source().read_pages(range, out)?))
            }
            Self::Planned(pages) => use_them(&mut |range, out| Ok(pages.read(range, out)?)),
        }
    }
}

/// A guest that was restored.
#[expect(missing_debug_implementations, reason = "a guest is a machine")]
pub struct Restored {
    /// The guest. It has not run yet.
    pub guest: Box<dyn Guest>,
    /// What was done.
    pub outcome: RestoreOutcome,
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
    check_program(backend, config)?;
    match backend {
        Backend::Kvm => platform::boot(config),
        Backend::Process => Ok(Box::new(ProcessGuest::boot(config)?)),
    }
}

/// Restores a guest where a snapshot left it. It does not run yet.
pub fn restore(backend: Backend, image: Image<'_, '_>) -> Result<Restored, GuestError> {
    image.config.check()?;
    check_program(backend, &image.config)?;
    match backend {
        Backend::Kvm => platform::restore(image),
        Backend::Process => {
            let (guest, outcome) = ProcessGuest::restore(image)?;
            Ok(Restored {
                guest: Box::new(guest),
                outcome,
            })
        }
    }
}

/// Restores an image into a guest that never runs, captures it again, and compares all of it: every
/// field of its state, and every page.
pub fn reload(backend: Backend, image: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
    image.config.check()?;
    check_program(backend, &image.config)?;
    match backend {
        Backend::Kvm => platform::reload(image),
        Backend::Process => crate::process::reload_image(image),
    }
}

/// A thread can only play the pattern.
fn check_program(backend: Backend, config: &GuestConfig) -> Result<(), GuestError> {
    let program = config.program;
    if backend == Backend::Process && program != Program::Pattern {
        return Err(GuestError::NeedsKvm { program });
    }
    Ok(())
}

/// What this host offers to guests of `backend`: for a decision that needs no snapshot.
pub fn host(backend: Backend) -> Result<Fingerprint, GuestError> {
    match backend {
        Backend::Kvm => platform::host(),
        Backend::Process => Ok(crate::process::host()),
    }
}

/// The registers of the first vCPU in the state of a snapshot: where its guest was stopped.
pub fn saved_registers(
    backend: Backend,
    sections: &mut SectionOffers,
) -> Result<Registers, GuestError> {
    match backend {
        Backend::Kvm => match sections.take::<VcpuX86>(0) {
            Ok(vcpu) => Ok(vcpu.registers),
            Err(error) => Err(GuestError::State(error.into())),
        },
        Backend::Process => {
            let wanted = "process";
            crate::process::take_registers(sections).ok_or(GuestError::ForeignState { wanted })
        }
    }
}

/// Whether KVM can be used, or why not.
pub fn kvm_available() -> io::Result<()> {
    platform::available()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod platform {
    use super::{Fingerprint, Guest, GuestConfig, GuestError, Image, ReloadReport, Restored, io};
    use crate::kvm::KvmGuest;

    pub(super) fn available() -> io::Result<()> {
        let kvm = kvm_ioctls::Kvm::new();
        kvm.map(drop)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    pub(super) fn host() -> Result<Fingerprint, GuestError> {
        crate::kvm::host()
    }

    pub(super) fn boot(config: &GuestConfig) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(KvmGuest::boot(config)?))
    }

    pub(super) fn reload(image: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
        crate::kvm::reload_image(image)
    }

    pub(super) fn restore(image: Image<'_, '_>) -> Result<Restored, GuestError> {
        let (guest, outcome) = KvmGuest::restore(image)?;
        Ok(Restored {
            guest: Box::new(guest),
            outcome,
        })
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod platform {
    use super::{Fingerprint, Guest, GuestConfig, GuestError, Image, ReloadReport, Restored, io};

    fn none() -> GuestError {
        GuestError::NoKvm {
            source: io::ErrorKind::Unsupported.into(),
        }
    }

    pub(super) fn available() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn host() -> Result<Fingerprint, GuestError> {
        Err(none())
    }

    pub(super) fn boot(_: &GuestConfig) -> Result<Box<dyn Guest>, GuestError> {
        Err(none())
    }

    pub(super) fn reload(_: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
        Err(none())
    }

    pub(super) fn restore(_: Image<'_, '_>) -> Result<Restored, GuestError> {
        Err(none())
    }
}
