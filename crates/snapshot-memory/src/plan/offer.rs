//! Each way of putting memory in place, held against what is asked.

use snapshot_format::PAGE_BYTES;

use super::costs::RestoreCosts;
use super::facts::{Discards, MappingCount, MemoryFacts, TargetFacts, TargetKind};
use super::method::{Faults, MappedFrom, MethodKind, RestoreMethod};
use super::refusal::{Refusal, Why};
use super::restore_plan::{CheckedBy, Estimate, pages};
use super::wanted::Wanted;
use crate::restore::Verification;

/// A way of putting memory in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Mapped(MappedFrom),
    Served,
    Eager,
}

/// A way that does what is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) way: Way,
    pub(super) method: RestoreMethod,
    pub(super) verification: Verification,
    pub(super) checked_by: CheckedBy,
    /// Whether guests of one snapshot share pages that they do not write.
    pub(super) shares: bool,
    pub(super) estimate: Estimate,
}

/// All that an offer is made from.
#[derive(Clone, Copy)]
struct Case<'a> {
    memory: &'a MemoryFacts,
    target: &'a TargetFacts,
    wanted: Wanted,
    costs: &'a RestoreCosts,
}

impl Way {
    /// Every way; those that cost least memory first.
    pub(super) const ALL: [Self; 5] = [
        Self::Mapped(MappedFrom::RawImage),
        Self::Mapped(MappedFrom::DataFiles),
        Self::Mapped(MappedFrom::SealedMemfd),
        Self::Served,
        Self::Eager,
    ];

    const fn kind(self) -> MethodKind {
        match self {
            Self::Mapped(_) => MethodKind::Mapped,
            Self::Served => MethodKind::Served,
            Self::Eager => MethodKind::Eager,
        }
    }

    const fn from(self) -> Option<MappedFrom> {
        match self {
            Self::Mapped(from) => Some(from),
            Self::Served | Self::Eager => None,
        }
    }

    pub(super) const fn refusal(self, why: Why) -> Refusal {
        Refusal {
            method: self.kind(),
            from: self.from(),
            why,
        }
    }

    pub(super) fn names(self, refusal: &Refusal) -> bool {
        (refusal.method, refusal.from) == (self.kind(), self.from())
    }

    /// What this way has to offer, or why nothing.
    pub(super) fn offer(
        self,
        memory: &MemoryFacts,
        target: &TargetFacts,
        wanted: Wanted,
        costs: &RestoreCosts,
    ) -> Result<Offer, Why> {
        if wanted.method.is_some_and(|named| named != self.kind()) {
            return Err(Why::NotNamed);
        }
        let case = Case {
            memory,
            target,
            wanted,
            costs,
        };
        match self {
            Self::Mapped(MappedFrom::SealedMemfd) => case.sealed(self),
            Self::Mapped(from) => case.mapped(self, from),
            Self::Served => case.served(self),
            Self::Eager => case.eager(self),
        }
    }
}

impl Case<'_> {
    /// Mapping files of the store.
    fn mapped(&self, way: Way, from: MappedFrom) -> Result<Offer, Why> {
        self.takes_mappings()?;
        let (mappings, verity, map_leaves) = match (from, self.memory.raw_image) {
            (MappedFrom::RawImage, None) => return Err(Why::NoRawImage),
            (MappedFrom::RawImage, Some(raw)) => (1, raw.verity, 0),
            _ => (
                self.counted()?,
                self.memory.data_verity,
                self.memory.map_leaves,
            ),
        };
        let (verification, checked_by) = self.policy_of_mapping(verity)?;
        let costs = self.costs;
        let map_ns =
            times(mappings, costs.map_run_ns).saturating_add(times(map_leaves, costs.map_leaf_ns));
        let check_ns = match verification {
            Verification::Eager => self.by_threads(costs.check_page_ns),
            _ => 0,
        };
        Ok(Offer {
            way,
            method: RestoreMethod::Mapped { from, mappings },
            verification,
            checked_by,
            shares: true,
            estimate: Estimate {
                start_ns: map_ns.saturating_add(check_ns),
                warm_ns: times(self.working_set_pages(), costs.map_touch_ns),
            },
        })
    }

    /// Mapping a memfd of checked pages.
    fn sealed(&self, way: Way) -> Result<Offer, Why> {
        if !self.target.shared {
            return Err(Why::NotShared);
        }
        self.takes_mappings()?;
        let costs = self.costs;
        let fill_ns = self.by_threads(costs.fill_page_ns);
        Ok(Offer {
            way,
            method: RestoreMethod::Mapped {
                from: MappedFrom::SealedMemfd,
                mappings: 1,
            },
            verification: Verification::Eager,
            checked_by: CheckedBy::Digests,
            shares: true,
            estimate: Estimate {
                start_ns: fill_ns.saturating_add(costs.map_run_ns),
                warm_ns: times(self.working_set_pages(), costs.map_touch_ns),
            },
        })
    }

    /// Answering faults.
    fn served(&self, way: Way) -> Result<Offer, Why> {
        let (target, costs) = (self.target, self.costs);
        let wanted = self.wanted.least();
        if !Verification::OnFault.satisfies(wanted) {
            return Err(Why::Unchecked { wanted });
        }
        if target.kernel.page_bytes != PAGE_BYTES {
            let page_bytes = target.kernel.page_bytes;
            return Err(Why::HostPages { page_bytes });
        }
        if target.huge_pages && self.wanted.method.is_none() {
            return Err(Why::HugePages);
        }
        let kernel = target.kernel;
        let can_share = kernel.minor_memfd && kernel.missing_memfd;
        let shares = target.shared && target.kind == TargetKind::Anonymous && can_share;
        let is_possible = match target.kind {
            TargetKind::Memfd => kernel.missing_memfd,
            TargetKind::Anonymous | TargetKind::Reservation => shares || kernel.missing,
        };
        if !is_possible {
            return Err(Why::NoUserfaultfd);
        }
        let faults = if shares {
            Faults::Minor
        } else {
            Faults::Missing
        };
        let pages = self.working_set_pages();
        let warm_ns = if self.memory.working_set_bytes.is_some() {
            times(pages, costs.replay_page_ns)
        } else {
            let windows = pages.div_ceil(costs.serve_window_pages.max(1));
            times(windows, costs.serve_fault_ns).saturating_add(times(pages, costs.serve_page_ns))
        };
        Ok(Offer {
            way,
            method: RestoreMethod::Served {
                faults,
                splits_huge_pages: target.huge_pages,
            },
            verification: Verification::OnFault,
            checked_by: CheckedBy::Digests,
            shares,
            estimate: Estimate {
                start_ns: costs.serve_start_ns,
                warm_ns,
            },
        })
    }

    /// Reading all of it first.
    #[expect(clippy::unnecessary_wraps, reason = "as all other ways")]
    fn eager(&self, way: Way) -> Result<Offer, Why> {
        let page_ns = if self.target.huge_pages {
            self.costs.copy_huge_page_ns
        } else {
            self.costs.copy_page_ns
        };
        Ok(Offer {
            way,
            method: RestoreMethod::Eager,
            verification: Verification::Eager,
            checked_by: CheckedBy::Digests,
            // Whoever maps the caller's memfd shares it.
            shares: self.target.kind == TargetKind::Memfd,
            estimate: Estimate {
                start_ns: self.by_threads(page_ns),
                warm_ns: 0,
            },
        })
    }

    /// Whether files can be mapped over the target.
    fn takes_mappings(&self) -> Result<(), Why> {
        let page_bytes = self.target.kernel.page_bytes;
        if self.target.kind != TargetKind::Anonymous {
            Err(Why::TargetStays)
        } else if page_bytes != PAGE_BYTES {
            Err(Why::HostPages { page_bytes })
        } else if self.target.huge_pages && self.wanted.method.is_none() {
            Err(Why::HugePages)
        } else if self.target.discards == Discards::MustBeZero {
            Err(Why::OldBytes)
        } else {
            Ok(())
        }
    }

    fn counted(&self) -> Result<u64, Why> {
        // What is too lax is told first: counting was left out for that reason.
        self.policy_of_mapping(self.memory.data_verity)?;
        match self.memory.mappings {
            MappingCount::Counted { mappings } => Ok(mappings),
            MappingCount::TooMany => Err(Why::TooManyMappings),
            MappingCount::Compressed { file } => Err(Why::Compressed { file }),
            MappingCount::NotCounted => Err(Why::NotCounted),
        }
    }

    /// The laxest policy of a mapped file that is at least what is wanted.
    fn policy_of_mapping(&self, verity: bool) -> Result<(Verification, CheckedBy), Why> {
        let is_named = self.wanted.method == Some(MethodKind::Mapped);
        match self.wanted.least() {
            Verification::Trusted | Verification::OnFault if verity => {
                Ok((Verification::OnFault, CheckedBy::FsVerity))
            }
            Verification::Trusted => Ok((Verification::Trusted, CheckedBy::Nobody)),
            Verification::Background => Ok((Verification::Background, CheckedBy::Digests)),
            Verification::Eager if is_named => Ok((Verification::Eager, CheckedBy::Digests)),
            Verification::Eager => Err(Why::ReadAgain),
            wanted @ Verification::OnFault => Err(Why::Unchecked { wanted }),
        }
    }

    fn working_set_pages(&self) -> u64 {
        let assumed = self.costs.assumed_working_set_bytes;
        let len_bytes = self.memory.working_set_bytes.unwrap_or(assumed);
        pages(len_bytes.min(self.memory.memory_bytes))
    }

    /// What all pages cost that may not be zero, spread over the threads.
    fn by_threads(&self, page_ns: u64) -> u64 {
        let all = times(pages(self.memory.data_bytes_at_most), page_ns);
        all / u64::from(self.target.threads.max(1))
    }
}

fn times(count: u64, cost_ns: u64) -> u64 {
    count.saturating_mul(cost_ns)
}
