//! Whether a host can run a snapshot: decided by its manifest, before anything else is read.

use clap::Args;
use hypervisor_bridge::Overrides;
use snapshot_format::state::{Fingerprint, Reason, ReasonKind};
use snapshot_format::{Arch, SnapshotId};
use snapshot_store::Store;
use tinyvm::{Backend, GuestError};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Which reasons the user takes upon himself.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Overriding {
    /// Go on in spite of reasons of these kinds
    #[arg(
        long = "override",
        value_name = "KIND,…",
        value_delimiter = ',',
        value_parser = overridable
    )]
    kinds: Vec<ReasonKind>,
}

impl Overriding {
    /// Whether nothing is overridden.
    pub(crate) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// For the library.
    pub(crate) fn overrides(&self) -> Overrides {
        let kinds = self.kinds.iter();
        kinds.fold(Overrides::default(), |all, kind| all.allow(*kind))
    }

    /// For the command line of another process; empty where nothing is overridden.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        match self.kinds.as_slice() {
            [] => Vec::new(),
            kinds => vec!["--override".to_owned(), names(kinds)],
        }
    }
}

/// A kind of reason that can be overridden.
fn overridable(name: &str) -> Result<ReasonKind, String> {
    let can = |kind: &ReasonKind| kind.can_be_overridden();
    let kinds: Vec<_> = ReasonKind::ALL.iter().copied().filter(can).collect();
    let known = name.parse::<ReasonKind>().ok().filter(can);
    known.ok_or_else(|| format!("what can be overridden is {}", names(&kinds)))
}

/// Names of kinds, with commas between them.
pub(crate) fn names(kinds: &[ReasonKind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(",")
}

/// What the guest of a snapshot needs of a host.
pub(crate) fn needs(
    context: &Context,
    store: &Store,
    id: SnapshotId,
) -> Result<Fingerprint, Failure> {
    let saved = store
        .fingerprint(id)
        .map_err(|error| context.failure(&error))?;
    saved.ok_or_else(|| {
        let problem = format!("snapshot {id} does not say what it needs of a host");
        Failure::new(Exit::Unsupported, problem)
            .hint("it was imported without machine state; ask the VMM that it is of")
    })
}

/// What this host offers to the guest of such a snapshot.
///
/// A host of another architecture is not asked: its own is all that matters.
pub(crate) fn this_host(saved: &Fingerprint) -> Result<Fingerprint, Failure> {
    let own = Arch::host().number();
    let backend = backend_of(saved);
    if backend == Backend::Kvm && saved.arch != own {
        return Ok(Fingerprint {
            arch: own,
            ..Fingerprint::default()
        });
    }
    ask(backend)
}

/// Who runs guests with such a fingerprint.
pub(crate) fn backend_of(saved: &Fingerprint) -> Backend {
    if saved.arch == Arch::None.number() {
        Backend::Process
    } else {
        Backend::Kvm
    }
}

/// What this host offers to guests of `backend`.
pub(crate) fn ask(backend: Backend) -> Result<Fingerprint, Failure> {
    tinyvm::host(backend).map_err(|error| unasked(&error))
}

fn unasked(error: &GuestError) -> Failure {
    let exit = match error {
        GuestError::NoKvm { .. } => Exit::Unsupported,
        _ => Exit::Failed,
    };
    let failure = Failure::because(exit, error);
    match exit {
        Exit::Unsupported => failure.hint(
            "give --host FILE, written by `vmsnap check --print-host` where the guest is to run",
        ),
        _ => failure,
    }
}

/// A failure with every reason that is left, and what can be done about them.
pub(crate) fn refusal(reasons: &[Reason]) -> Failure {
    let texts: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    let message = format!("this host cannot run the snapshot: {}", texts.join("; "));
    let failure = Failure::new(Exit::Incompatible, message);
    match override_with(reasons) {
        Some(kinds) => failure.hint(format!("to go on in spite of it, give --override {kinds}")),
        None => failure.hint("restore it on a host like the one that it was taken on"),
    }
}

/// The kinds to override so that none of these reasons is left; `None` where that cannot be.
pub(crate) fn override_with(reasons: &[Reason]) -> Option<String> {
    let kinds: Vec<ReasonKind> = reasons.iter().map(Reason::kind).collect();
    if kinds.is_empty() || !kinds.iter().all(|kind| kind.can_be_overridden()) {
        return None;
    }
    let mut once: Vec<ReasonKind> = Vec::new();
    for kind in kinds {
        if !once.contains(&kind) {
            once.push(kind);
        }
    }
    Some(names(&once))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    // spec: CLI-39
    #[test]
    fn a_host_that_cannot_be_asked_says_so_and_what_to_do() {
        let source = io::Error::from_raw_os_error(2);
        let failure = unasked(&GuestError::NoKvm { source });
        assert_eq!(failure.exit, Exit::Unsupported);
        assert!(failure.to_string().contains("--host FILE"), "{failure}");
    }

    // spec: CLI-39
    #[test]
    fn another_architecture_is_told_without_a_hypervisor() {
        let other = [Arch::X86_64, Arch::Aarch64].map(Arch::number);
        let other = other
            .into_iter()
            .find(|arch| *arch != Arch::host().number());
        let saved = Fingerprint {
            arch: other.unwrap(),
            ..Fingerprint::default()
        };
        let reasons = saved.check(&this_host(&saved).unwrap());
        let kinds: Vec<_> = reasons.iter().map(Reason::kind).collect();
        assert_eq!(kinds, [ReasonKind::Architecture]);
        assert_eq!(override_with(&reasons), None);
    }

    // spec: RES-15
    #[test]
    fn only_what_can_be_overridden_is_a_name_for_it() {
        assert_eq!(overridable("vendor"), Ok(ReasonKind::Vendor));
        for name in ["colour", "architecture", "machine", "state", "clock", ""] {
            let told = overridable(name).unwrap_err();
            assert!(told.contains("page_size,vendor"), "{told}");
        }
    }
}
