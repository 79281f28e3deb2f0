//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use snapshot_format::PAGE_BYTES;

use crate::sample::Rounds;

/// Rounds that are measured unless `--quick` is given.
const ROUNDS: usize = 11;

/// Rounds that `--quick` measures: enough to see that a suite runs, too few to believe it.
const QUICK_ROUNDS: usize = 3;

/// Rounds that a case is given however long they take.
const FEWEST_ROUNDS: usize = 5;

/// How long a case may take once it has had those. Where freed blocks are discarded one by one,
/// removing a scattered file takes a hundred times as long as writing it.
const CASE_BUDGET: Duration = Duration::from_mins(1);

const DEFAULT_MEM_BYTES: u64 = 1 << 30;

const QUICK_MEM_BYTES: u64 = 128 << 20;

/// Measures vmsnap against its peers and the limits of the machine, in one run, alternately.
#[derive(Parser, Debug)]
#[command(name = "benches")]
pub(crate) struct Options {
    /// What to measure, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    pub(crate) suite: Vec<Suite>,

    /// Only these cases of the suite `memory`, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = crate::memory::CASES)]
    case: Vec<String>,

    /// Guest memory: bytes, or with K, M or G [default: 1G, with --quick 128M]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    mem: Option<u64>,

    /// Writes the rows to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Few rounds and little memory: shows that it runs, proves nothing.
    #[arg(long)]
    quick: bool,

    /// Rounds of every case [default: 11, or at least 5 where they take longer than a minute]
    #[arg(long, value_name = "N", conflicts_with = "quick")]
    rounds: Option<NonZeroUsize>,

    /// Where the measured files are written [default: the temporary directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) dir: Option<PathBuf>,
}

/// A group of cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// Writing guest memory, durable and published.
    Memory,
    /// Dirty bitmaps.
    Bitmap,
    /// vCPU state.
    State,
}

impl Options {
    /// Bytes of guest memory.
    pub(crate) fn mem_bytes(&self) -> u64 {
        let default = if self.quick {
            QUICK_MEM_BYTES
        } else {
            DEFAULT_MEM_BYTES
        };
        self.mem.unwrap_or(default)
    }

    /// Whether a case of the suite `memory` is asked for: all are where none is named.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.case.is_empty() || self.case.iter().any(|name| name == case)
    }

    /// Rounds that count; one more, before them, warms up.
    pub(crate) fn rounds(&self) -> Rounds {
        match self.rounds {
            Some(rounds) => Rounds::exactly(rounds.get()),
            None if self.quick => Rounds::exactly(QUICK_ROUNDS),
            None => Rounds {
                most: ROUNDS,
                fewest: FEWEST_ROUNDS,
                budget: CASE_BUDGET,
            },
        }
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no size; say 1G, 256M or a number of bytes"))?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 64 bits hold"))?;
    // A hundred pages, so that 1 % is a page.
    if bytes < 100 * PAGE_BYTES || !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(format!(
            "{text} is no multiple of 4096 of at least 100 pages"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_pages_with_or_without_a_suffix() {
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("400K"), Ok(409_600));
        assert_eq!(parse_size("409600"), Ok(409_600));
        for bad in [
            "",
            "G",
            "1T",
            "-1",
            "4097",
            "64K",
            "99999999999999999999",
            "18014398509481984K",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_quick_run_is_small_and_a_given_size_wins() {
        let parse = |arguments: &[&str]| Options::try_parse_from(arguments).unwrap();
        let quick = parse(&["benches", "--suite", "memory,state", "--quick"]);
        assert_eq!(quick.suite, [Suite::Memory, Suite::State]);
        assert_eq!(quick.mem_bytes(), QUICK_MEM_BYTES);
        assert_eq!(quick.rounds(), Rounds::exactly(QUICK_ROUNDS));
        let sized = parse(&["benches", "--suite", "bitmap", "--quick", "--mem", "2G"]);
        assert_eq!(sized.mem_bytes(), 2 << 30);
        let counted = parse(&["benches", "--suite", "bitmap", "--rounds", "21"]);
        assert_eq!(counted.rounds(), Rounds::exactly(21));
        let one = parse(&["benches", "--suite", "memory", "--case", "diff-1pct"]);
        assert!(one.wants("diff-1pct") && !one.wants("diff-10pct"));
        assert!(quick.wants("diff-10pct"));
        for (option, value) in [("--suite", "nonsense"), ("--case", "diff-2pct")] {
            let line = ["benches", "--suite", "memory", option, value];
            Options::try_parse_from(line).unwrap_err();
        }
    }
}
