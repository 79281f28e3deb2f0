//! The command line.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use snapshot_format::PAGE_BYTES;

use crate::place::PlaceKind;
use crate::plan;
use crate::{live, restore, store};

/// Rounds that are measured unless `--quick` is given.
const ROUNDS: NonZeroUsize = NonZeroUsize::new(11).unwrap();

/// Rounds that `--quick` measures: enough to see that a suite runs, too few to believe it.
const QUICK_ROUNDS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

const DEFAULT_MEM_BYTES: u64 = 1 << 30;

const QUICK_MEM_BYTES: u64 = 128 << 20;

/// How much smaller guests are with `--quick`, where a case names their size.
const QUICK_DIVISOR: u64 = 16;

/// Measures vmsnap against its peers and the limits of the machine, in one run, alternately.
#[derive(Parser, Debug)]
#[command(name = "benches")]
pub(crate) struct Options {
    /// What to measure, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        required_unless_present = "from"
    )]
    pub(crate) suite: Vec<Suite>,

    /// Only these cases, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME",
        value_parser = PossibleValuesParser::new(case_names()),
        hide_possible_values = true
    )]
    case: Vec<String>,

    /// All cases of the suites on the file system of `--dir`, not only those that the design sets a
    /// bar for and what explains them
    #[arg(long, conflicts_with = "case")]
    pub(crate) all: bool,

    /// The file systems of the suites `memory` and `cost`, separated by commas. All but `host` are
    /// made for the run and need root
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "KIND",
        default_value = "host"
    )]
    pub(crate) fs: Vec<PlaceKind>,

    /// Guest memory: bytes, or with K, M or G [default: 1G, with --quick 128M]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    mem: Option<u64>,

    /// Few rounds and little memory: shows that it runs, proves nothing
    #[arg(long)]
    quick: bool,

    /// Rounds of every case [default: 11]
    #[arg(long, value_name = "N", conflicts_with = "quick")]
    rounds: Option<NonZeroUsize>,

    /// Where the measured files are written [default: the temporary directory]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Measures nothing, and tells the rows of this file, which an earlier `--json` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suite", "json"])]
    pub(crate) from: Option<PathBuf>,

    /// Writes the rows to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Writes tables of the rows to this file as Markdown: between its marks, if it has them
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,

    /// Draws the rows into SVG files in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) charts: Option<PathBuf>,
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
    /// The figures that layouts are chosen by.
    Cost,
    /// Guest memory brought back: first reads, working sets, clones.
    Restore,
    /// Guests frozen while they run: how long they stand still.
    Live,
    /// Snapshots archived, verified and brought back, against programs that keep files.
    Store,
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

    /// What stands for `bytes` of guest memory in a case with its size in its name: less of it with
    /// `--quick`.
    pub(crate) fn scaled(&self, bytes: u64) -> u64 {
        bytes / self.divisor()
    }

    /// What stands for so many pages that are read: fewer with `--quick`, though not none.
    pub(crate) fn scaled_pages(&self, pages: u64) -> u64 {
        pages.div_ceil(self.divisor())
    }

    fn divisor(&self) -> u64 {
        if self.quick { QUICK_DIVISOR } else { 1 }
    }

    /// Whether a case is measured, which is `by_default` if none is named.
    pub(crate) fn wants(&self, case: &str, by_default: bool) -> bool {
        if self.case.is_empty() {
            by_default
        } else {
            self.case.iter().any(|name| name == case)
        }
    }

    /// Whether the run only shows that it runs.
    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// Rounds that count; one more, before them, warms up.
    pub(crate) fn rounds(&self) -> NonZeroUsize {
        match self.rounds {
            Some(rounds) => rounds,
            None if self.quick => QUICK_ROUNDS,
            None => ROUNDS,
        }
    }

    /// Where files are written.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir
            .as_deref()
            .map_or_else(std::env::temp_dir, Path::to_owned)
    }
}

/// The names of all cases that can be asked for.
fn case_names() -> Vec<&'static str> {
    let names = plan::names().chain(restore::plan::names());
    let names = names.chain(live::plan::names());
    names.chain(store::plan::names()).collect()
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
        assert_eq!(quick.rounds(), QUICK_ROUNDS);
        assert_eq!(quick.fs, [PlaceKind::Host]);
        let sized = parse(&["benches", "--suite", "bitmap", "--quick", "--mem", "2G"]);
        assert_eq!(sized.mem_bytes(), 2 << 30);
        let counted = parse(&["benches", "--suite", "bitmap", "--rounds", "21"]);
        assert_eq!(counted.rounds().get(), 21);
        assert_eq!(parse(&["benches", "--suite", "bitmap"]).rounds().get(), 11);
    }

    #[test]
    fn cases_are_those_of_the_plan_and_named_ones_win() {
        let parse = |arguments: &[&str]| {
            let line = ["benches", "--suite", "memory"].iter().chain(arguments);
            Options::try_parse_from(line)
        };
        let one = parse(&["--case", "diff-1pct"]).unwrap();
        assert!(one.wants("diff-1pct", false) && !one.wants("diff-10pct", true));
        let none = parse(&["--fs", "host,xfs,tmpfs"]).unwrap();
        assert!(none.wants("diff-1pct", true) && !none.wants("diff-1pct", false));
        assert_eq!(none.fs.len(), 3);
        for name in case_names() {
            parse(&["--case", name]).unwrap();
        }
        for bad in [
            ["--suite", "nonsense"],
            ["--case", "diff-2pct"],
            ["--fs", "fat"],
            ["--from", "x.json"],
            ["--rounds", "0"],
        ] {
            parse(&bad).unwrap_err();
        }
    }

    #[test]
    fn an_earlier_report_needs_no_suite() {
        let line = ["benches", "--from", "x.json", "--charts", "charts"];
        let options = Options::try_parse_from(line).unwrap();
        assert_eq!(options.from, Some("x.json".into()));
        Options::try_parse_from(["benches"]).unwrap_err();
    }
}
