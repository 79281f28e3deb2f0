//! The options that say when chains are made shorter.

use std::fmt::Write;

use clap::Args;
use snapshot_store::{ChainAction, ChainReason, ConsolidationPlan, ConsolidationPolicy};

use crate::quantity::counted;
use crate::table::{draw, table};
use crate::view::short;

/// When a chain of data files is too long, or keeps too much for nothing.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct ChainRules {
    /// Make chains shorter that have more than N data files
    #[arg(long = "max-files", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    files: Option<u16>,

    /// Make chains shorter of which more is hidden and unused, in hundredths of the stored pages
    #[arg(long = "max-wasted", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    wasted: Option<u8>,

    /// Runs that 64 MiB of memory may fall into before gaps are copied, too
    #[arg(long = "max-runs", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16384))]
    runs: Option<u16>,

    /// Pages that may be copied for that, in hundredths of those that must be
    #[arg(long = "max-extra", value_name = "PERCENT", value_parser = clap::value_parser!(u16).range(0..=1000))]
    extra: Option<u16>,
}

impl ChainRules {
    /// The policy that the options say; `None` where none is given.
    pub(crate) fn policy(&self) -> Option<ConsolidationPolicy> {
        let policy = ConsolidationPolicy::default()
            .max_files(self.files)
            .max_wasted_percent(self.wasted)
            .max_runs(self.runs)
            .max_extra_percent(self.extra);
        (policy != ConsolidationPolicy::default()).then_some(policy)
    }
}

/// A policy, as `policy set` takes it.
pub(crate) fn show_chain_policy(policy: &ConsolidationPolicy) -> String {
    let numbers = [
        ("--max-files", policy.max_files),
        ("--max-wasted", policy.max_wasted_percent.map(u16::from)),
        ("--max-runs", policy.max_runs),
        ("--max-extra", policy.max_extra_percent),
    ];
    let words = numbers.into_iter();
    let words = words.filter_map(|(name, number)| Some(format!("{name} {}", number?)));
    words.collect::<Vec<_>>().join(" ")
}

/// A table of the chains that something is to be said of; those within the policy are counted.
pub(crate) fn show_chains(plan: &ConsolidationPlan) -> String {
    let mut rows = table(&["", ">SEQ", "ID", ">FILES", ">THEN", "WHY"]);
    let mut within = 0;
    for decision in &plan.decisions {
        if decision.reasons == [ChainReason::Within] {
            within += 1;
            continue;
        }
        let reasons: Vec<String> = decision.reasons.iter().map(why).collect();
        rows.add_row([
            match decision.action {
                ChainAction::Consolidate => "shorten".to_owned(),
                ChainAction::Leave => "leave".to_owned(),
            },
            decision.seq.to_string(),
            short(decision.id),
            decision.files.to_string(),
            decision.files_after.to_string(),
            reasons.join("; "),
        ]);
    }
    let mut text = String::new();
    if within < plan.decisions.len() {
        text.push_str(&draw(&rows));
    }
    let count = counted(within as u64, "chain");
    let _ = writeln!(text, "{}: {count} within the policy", plan.vm);
    text
}

fn why(reason: &ChainReason) -> String {
    match reason {
        ChainReason::Within => "within the policy".to_owned(),
        ChainReason::TooManyFiles { max_files } => {
            format!("more than {}", counted(u64::from(*max_files), "data file"))
        }
        ChainReason::TooWasteful {
            wasted_pages,
            stored_pages,
            max_wasted_percent,
        } => format!(
            "{wasted_pages} of {stored_pages} stored pages are of no use, more than {max_wasted_percent} %"
        ),
        ChainReason::Protected => "protected".to_owned(),
        ChainReason::Unreadable { problem } => format!("cannot be read: {problem}"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-70
    #[test]
    fn options_of_chains_are_shown_as_they_are_given() {
        assert_eq!(ChainRules::default().policy(), None);
        let rules = ChainRules {
            files: Some(8),
            extra: Some(0),
            ..ChainRules::default()
        };
        let policy = rules.policy().unwrap();
        assert_eq!(show_chain_policy(&policy), "--max-files 8 --max-extra 0");
        // Which is refused as saying nothing, and not passed over.
        let alone = ChainRules {
            runs: Some(1),
            ..ChainRules::default()
        };
        assert!(alone.policy().unwrap().check().is_err());
    }
}
