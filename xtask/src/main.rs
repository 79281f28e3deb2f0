//! The project's own tasks. `cargo xtask` prints them.

mod bench;
mod campaign;
mod cargo;
mod checks;
mod crash;
mod failure;
mod fuse;
mod fuzz;
mod hostile;
mod lint;
mod requirement;
mod sabotage;
mod source_tree;
mod spec;
mod targets;
mod test;
mod tidy;

use std::process::ExitCode;

use failure::Failure;
use sabotage::Check;

const HELP: &str = "\
cargo xtask TASK

  test                          everything that a clean clone needs to pass; prints what was skipped
  lint                          fmt, clippy, tidy, spec, rustdoc, deny
  tidy                          the rules of this project that no other tool knows
  spec                          rule ids of specs/ against the tests that name them
  bench ARGS...                 --suite memory|bitmap|state [--mem SIZE] [--json FILE] [--quick] [--dir PATH]
  crash [--sabotage NAME]       cuts at every file operation; last line `crash points: N, violations: V`
  crash --block [--sabotage NAME]   the real command on ext4, XFS and btrfs in loop files; takes also --fs NAMES,
                                --quick, --layout NAME, --engine NAME and --dir PATH
  hostile [--sabotage NAME]     flips, truncations and lies; last line `hostile inputs: N, accepted wrong: A, panics: P`
  instants [--count N] [--seed N] [--programs NAMES] [--sabotage NAME]   guests snapshotted at random instants, each
                                restored in a new process; last line `instants: N, differences: D`
  soak [--generations N] [--seed N] [--sabotage NAME]   guests restored, run and snapshotted in every way, one
                                generation after the other; last line `generations: N, differences: D`
  soak --suite store [--steps N] [--seed N] [--sabotage NAME]   operations on stores at random, cut, failed and beside
                                damage, every byte compared with a model; last line `steps: N, violations: V`
  kill [--count N] [--seed N] [--sabotage NAME]   processes that use a store, ended by SIGKILL at random instants;
                                last line `kills: N, losses: L`
  fuse [--every N] [--seed N]   the real command on a FUSE file system that loses what was not synced, cut, failed and
                                full at every N-th change; last line `fuse cuts: N, violations: V`
  fuse --prove                  the same where a sync makes nothing durable: it must find violations
  fuzz --seconds S              every target for S seconds; last line `fuzz targets: N, crashes: C`
  sabotage --list               the deliberate defects, and the check that each must fail
  sabotage --prove [NAME...]    runs each defect, or those named, against its check and demands the failure
  targets                       type-checks the library crates for aarch64 Linux and aarch64 macOS; last line
                                `targets: N passed, F failed`

VMSNAP_REQUIRE=kvm,xfs,...      what must not be skipped; a wrong name lists the right ones
Exit codes: 0 passed, 1 failed, 2 usage.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = requirement::from_environment().and_then(|required| match args.as_slice() {
        ["test"] => test::run(&required),
        ["lint"] => lint::run(&required),
        ["tidy"] => tidy::run(),
        ["spec"] => spec::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["crash", rest @ ..] => crash::run(rest),
        ["hostile", rest @ ..] => hostile::run(rest),
        ["instants", rest @ ..] => campaign::run(Check::Instants, rest, &required),
        ["soak", "--suite", "store", rest @ ..] => campaign::run(Check::StoreSoak, rest, &required),
        ["soak", rest @ ..] => campaign::run(Check::Soak, rest, &required),
        ["kill", rest @ ..] => campaign::run(Check::Kill, rest, &required),
        ["fuse", rest @ ..] => fuse::run(rest, &required),
        ["fuzz", rest @ ..] => fuzz::run(rest, &required),
        ["targets"] => targets::run(&required),
        ["sabotage", rest @ ..] => sabotage::run(rest),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        [] => Err(Failure::usage("no task given")),
        [other, ..] => Err(Failure::usage(format!(
            "no task {other:?} with these arguments"
        ))),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprint!("{message}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
