//! The plan of a restore on this host.

use clap::{Args, ValueEnum};
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::{
    Discards, KernelFacts, MemoryFacts, MethodKind, RawImageFacts, RestoreCosts, RestorePlan,
    TargetFacts, TargetKind, Verification, Wanted,
};
use snapshot_store::StoredImage;

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// What the store has besides the memory itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Bytes of the recorded working set, where there is one.
    pub(super) working_set_bytes: Option<u64>,
    /// The raw image in the cache, where there is one.
    pub(super) raw_image: Option<RawImageFacts>,
}

/// Where the memory would go, and what is asked of the restore.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// What the memory of the guest is made of
    #[arg(long, value_enum, value_name = "KIND")]
    target: Option<Target>,

    /// When pages are checked, at the latest; without it, before the guest sees them
    #[arg(long, value_enum, value_name = "POLICY")]
    verify: Option<Policy>,

    /// The way to be taken; without it, the best
    #[arg(long, value_enum, value_name = "METHOD")]
    method: Option<Method>,

    /// The target is on huge pages, which are to be kept
    #[arg(long)]
    huge_pages: bool,

    /// Other guests of this snapshot run here, and pages should be shared
    #[arg(long)]
    shared: bool,

    /// Pages of the guest are given back while it runs, by a balloon or alike: what they read as
    /// then; mapped files show their old bytes again
    #[arg(long, value_enum, value_name = "AS")]
    gives_back: Option<GivesBack>,

    /// Threads that the restore may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Target {
    Anonymous,
    Reservation,
    Memfd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Policy {
    Eager,
    OnFault,
    Background,
    Trusted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum GivesBack {
    /// They must be zero
    Zero,
    /// They may be as in the snapshot again
    Old,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Method {
    Mapped,
    Served,
    Eager,
}

#[derive(Serialize)]
struct Planned {
    id: SnapshotId,
    memory: MemoryFacts,
    target: TargetFacts,
    plan: RestorePlan,
}

impl Options {
    /// Whether any of them is.
    pub(super) fn are_given(&self) -> bool {
        let named = self.target.is_some() || self.verify.is_some() || self.method.is_some();
        let is_told = self.huge_pages || self.shared || self.gives_back.is_some();
        named || is_told || self.threads.is_some()
    }

    /// The plan for `stored`.
    pub(super) fn answer(
        &self,
        context: &Context,
        id: SnapshotId,
        stored: &StoredImage,
        known: Known,
    ) -> Result<Answer, Failure> {
        let wanted = self.wanted();
        let memory = MemoryFacts::of(stored.image(), wanted);
        let memory = memory.map_err(|error| context.failure(&error.into()))?;
        let memory = MemoryFacts {
            raw_image: known.raw_image,
            working_set_bytes: known.working_set_bytes,
            ..memory
        };
        let target = self.target();
        let plan = RestorePlan::choose(&memory, &target, wanted, &RestoreCosts::default());
        let plan = plan.map_err(|refused| {
            let told = Failure::because(Exit::Usage, &refused);
            told.hint("name another method, or a laxer policy, or leave both out")
        })?;
        let planned = Planned {
            id,
            memory,
            target,
            plan,
        };
        context.answer("vmsnap.map-plan.v1", &planned, |planned| {
            planned.plan.to_string()
        })
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            verification: self.verify.map(|policy| match policy {
                Policy::Eager => Verification::Eager,
                Policy::OnFault => Verification::OnFault,
                Policy::Background => Verification::Background,
                Policy::Trusted => Verification::Trusted,
            }),
            method: self.method.map(|method| match method {
                Method::Mapped => MethodKind::Mapped,
                Method::Served => MethodKind::Served,
                Method::Eager => MethodKind::Eager,
            }),
        }
    }

    fn target(&self) -> TargetFacts {
        let kind = match self.target {
            None | Some(Target::Anonymous) => TargetKind::Anonymous,
            Some(Target::Reservation) => TargetKind::Reservation,
            Some(Target::Memfd) => TargetKind::Memfd,
        };
        TargetFacts::new(kind, kernel())
            .huge_pages(self.huge_pages)
            .shared(self.shared)
            .discards(match self.gives_back {
                None => Discards::None,
                Some(GivesBack::Zero) => Discards::MustBeZero,
                Some(GivesBack::Old) => Discards::MayBeOld,
            })
            .threads(self.threads.unwrap_or(1))
    }
}

/// What the kernel lets this user do, who may not be the one that the VMM runs as.
#[cfg(target_os = "linux")]
fn kernel() -> KernelFacts {
    KernelFacts::of_host(snapshot_memory::UffdOptions::default())
}

#[cfg(not(target_os = "linux"))]
fn kernel() -> KernelFacts {
    KernelFacts::default()
}
