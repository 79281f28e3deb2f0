//! `bench`: the measurements, in a package of their own so that nothing else builds the peers.

use crate::cargo;
use crate::failure::Failure;

/// Builds the benches in release and hands them the arguments.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    if args.is_empty() {
        return Err(Failure::usage("bench needs --suite NAME"));
    }
    let build = ["run", "--quiet", "--release", "--package", "benches", "--"];
    cargo::run(cargo::command(build.iter().chain(args)))
}
