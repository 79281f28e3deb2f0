//! Chains that are beyond the policy of their machine, and what is done about them.

use std::collections::BTreeSet;

use serde::Serialize;
use snapshot_format::{DataFileRef, SnapshotId, VmName};
use snapshot_memory::{CaptureControl, FileShare, choose_prefix};

use super::{Chain, ConsolidationPolicy, ConsolidationReport};
use crate::directory::Location;
use crate::error::{ErrorKind, StoreError};
use crate::record::SnapshotRecord;
use crate::store::Store;

/// What a policy would make of the chains of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ConsolidationPlan {
    /// Which machine.
    pub vm: VmName,
    /// The policy.
    pub policy: ConsolidationPolicy,
    /// One for each snapshot with memory, by sequence number.
    pub decisions: Vec<ChainDecision>,
}

/// What becomes of the chain of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainDecision {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Its sequence number.
    pub seq: u64,
    /// Whether its chain is made shorter.
    pub action: ChainAction,
    /// Why.
    pub reasons: Vec<ChainReason>,
    /// Data files that it needs.
    pub files: usize,
    /// Data files that it would need then.
    pub files_after: usize,
    /// Pages that would be copied at least.
    pub copied_pages: u64,
}

/// Whether a chain is made shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainAction {
    /// By a merged file.
    Consolidate,
    /// It stays as it is.
    Leave,
}

/// Why a chain is made shorter, or stays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChainReason {
    /// It is within the limits.
    Within,
    /// It has more data files than the policy allows.
    TooManyFiles {
        /// How many it may have.
        max_files: u16,
    },
    /// Of what its data files store, more is of no use to it, and of hidden bases, than the policy
    /// allows.
    TooWasteful {
        /// Pages of hidden bases that it does not use.
        wasted_pages: u64,
        /// Pages that its data files store.
        stored_pages: u64,
        /// Hundredths that may be wasted.
        max_wasted_percent: u8,
    },
    /// It stays, as the snapshot is protected: it is left to whoever protected it.
    Protected,
    /// It stays, as it cannot be read.
    Unreadable {
        /// Why.
        problem: String,
    },
}

/// What making chains shorter did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ConsolidationOutcome {
    /// The snapshots whose chains are shorter now, in this order.
    pub consolidated: Vec<ConsolidationReport>,
    /// The snapshots that stay as they were.
    pub failed: Vec<FailedConsolidation>,
}

/// A snapshot whose chain was to be made shorter, and was not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct FailedConsolidation {
    /// Which.
    pub id: SnapshotId,
    /// What sort of problem.
    pub kind: ErrorKind,
    /// What is wrong.
    pub problem: String,
}

impl Store {
    /// What `policy` would make of the chains of the snapshots of `vm` in use, once those in `removed`
    /// are deleted. Nothing is changed.
    pub fn plan_consolidation(
        &self,
        vm: &VmName,
        policy: &ConsolidationPolicy,
        removed: &BTreeSet<SnapshotId>,
    ) -> Result<ConsolidationPlan, StoreError> {
        policy.check()?;
        let records = self.list(Some(vm))?.snapshots;
        let stay = records.iter().filter(|one| !removed.contains(&one.id));
        let mut decisions = Vec::new();
        for record in stay.filter(|record| record.has_memory) {
            match self.decide_chain(record, policy, removed) {
                Ok(decision) => decisions.push(decision),
                // Deleted since it was listed.
                Err(StoreError::NotFound { .. }) => {}
                Err(StoreError::Interrupted) => return Err(StoreError::Interrupted),
                Err(error) => decisions.push(ChainDecision {
                    reasons: vec![ChainReason::Unreadable {
                        problem: error.to_string(),
                    }],
                    ..ChainDecision::of(record)
                }),
            }
        }
        Ok(ConsolidationPlan {
            vm: vm.clone(),
            policy: *policy,
            decisions,
        })
    }

    /// Makes the chains shorter that `plan` says, the oldest first. Each is decided on anew: what has
    /// come to be within the policy, or protected, stays.
    ///
    /// What fails for one snapshot is in the outcome, and the others go on, but for a wish to break off.
    pub fn consolidate_planned(
        &self,
        plan: &ConsolidationPlan,
        control: &CaptureControl,
    ) -> Result<ConsolidationOutcome, StoreError> {
        let mut outcome = ConsolidationOutcome::default();
        for decision in plan.due() {
            let id = decision.id;
            match self.consolidate_by(id, &plan.policy, control) {
                Ok(report) => outcome.consolidated.extend(report),
                Err(StoreError::NotFound { .. }) => {}
                Err(StoreError::Interrupted) => return Err(StoreError::Interrupted),
                Err(error) => outcome.failed.push(FailedConsolidation {
                    id,
                    kind: error.kind(),
                    problem: error.to_string(),
                }),
            }
        }
        Ok(outcome)
    }

    /// Makes the chain of a snapshot in use shorter if the policy of its machine says so; `None` where
    /// there is nothing to do.
    ///
    /// To be called once a snapshot is published and the machine runs again: it copies memory, and
    /// takes as long as that does. Whatever goes wrong, the snapshot stays as it was published.
    pub fn consolidate_due(
        &self,
        id: SnapshotId,
        control: &CaptureControl,
    ) -> Result<Option<ConsolidationReport>, StoreError> {
        let vm = self.snapshot(id)?.vm;
        match self.policy(&vm)?.consolidation {
            Some(policy) => self.consolidate_by(id, &policy, control),
            None => Ok(None),
        }
    }

    fn consolidate_by(
        &self,
        id: SnapshotId,
        policy: &ConsolidationPolicy,
        control: &CaptureControl,
    ) -> Result<Option<ConsolidationReport>, StoreError> {
        policy.check()?;
        let record = self.snapshot(id)?;
        let decision = self.decide_chain(&record, policy, &BTreeSet::new())?;
        if decision.action == ChainAction::Leave {
            return Ok(None);
        }
        let layout = self.leased(id, |placed| self.open_own(placed))?.0;
        let options = policy.options(layout.root().data_layout, control);
        let report = self.consolidate_as(id, &options, |chain| {
            let shares = self.judged_shares(chain, &BTreeSet::new())?;
            Ok(choose_prefix(&shares, policy.limits()))
        })?;
        Ok(report.changed.then_some(report))
    }

    /// What becomes of one chain.
    fn decide_chain(
        &self,
        record: &SnapshotRecord,
        policy: &ConsolidationPolicy,
        removed: &BTreeSet<SnapshotId>,
    ) -> Result<ChainDecision, StoreError> {
        let mut decision = ChainDecision::of(record);
        let ((files, shares), _lease) = self.leased(record.id, |placed| {
            let files = placed.placement.dependencies.len();
            let is_short = policy.max_files.is_none_or(|most| files <= most.into());
            if is_short && policy.max_wasted_percent.is_none() {
                return Ok((files, None));
            }
            let chain = self.open_chain(placed)?;
            Ok((files, Some(self.judged_shares(&chain, removed)?)))
        })?;
        decision.judge(policy, files, shares.as_deref());
        if record.metadata.protected && decision.action == ChainAction::Consolidate {
            decision.action = ChainAction::Leave;
            decision.files_after = decision.files;
            decision.copied_pages = 0;
            decision.reasons.push(ChainReason::Protected);
        }
        Ok(decision)
    }

    /// The shares of a chain: nothing is wasted in the files of snapshots that are in use, as those
    /// stay where they are.
    fn judged_shares(
        &self,
        chain: &Chain,
        removed: &BTreeSet<SnapshotId>,
    ) -> Result<Vec<FileShare>, StoreError> {
        let mut hidden = BTreeSet::new();
        for data in &chain.before.dependencies {
            let is_live = self.exists_at(Location::Live, data.snapshot)?;
            if !is_live || removed.contains(&data.snapshot) {
                hidden.insert(data.snapshot);
            }
        }
        chain.shares(&|data: &DataFileRef| !hidden.contains(&data.snapshot))
    }
}

impl ConsolidationPlan {
    /// The chains that are made shorter.
    pub fn due(&self) -> impl Iterator<Item = &ChainDecision> {
        let all = self.decisions.iter();
        all.filter(|decision| decision.action == ChainAction::Consolidate)
    }
}

impl ChainDecision {
    /// Nothing is known of the chain yet.
    fn of(record: &SnapshotRecord) -> Self {
        Self {
            id: record.id,
            seq: record.seq,
            action: ChainAction::Leave,
            reasons: Vec::new(),
            files: 0,
            files_after: 0,
            copied_pages: 0,
        }
    }

    /// Decides by what the snapshot has of each data file; without that, it is within the policy.
    fn judge(&mut self, policy: &ConsolidationPolicy, files: usize, shares: Option<&[FileShare]>) {
        (self.files, self.files_after) = (files, files);
        let shares = shares.unwrap_or_default();
        let Some(kept) = choose_prefix(shares, policy.limits()) else {
            self.reasons.push(ChainReason::Within);
            return;
        };
        self.action = ChainAction::Consolidate;
        self.files_after = kept + 1;
        let (_, merged) = shares.split_at(kept.min(shares.len()));
        self.copied_pages = merged.iter().map(|share| share.owned_pages).sum();
        if let Some(max_files) = policy.max_files.filter(|most| files > usize::from(*most)) {
            self.reasons.push(ChainReason::TooManyFiles { max_files });
        }
        let sum = |of: fn(&FileShare) -> u64| shares.iter().map(of).sum::<u64>();
        let (wasted_pages, stored_pages) = (
            sum(FileShare::wasted_pages),
            sum(|share| share.stored_pages),
        );
        let is_over = |percent: &u8| {
            u128::from(wasted_pages) * 100 > u128::from(stored_pages) * u128::from(*percent)
        };
        if let Some(max_wasted_percent) = policy.max_wasted_percent.filter(is_over) {
            self.reasons.push(ChainReason::TooWasteful {
                wasted_pages,
                stored_pages,
                max_wasted_percent,
            });
        }
    }
}
