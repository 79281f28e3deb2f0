//! Work that leaves something to others.

use std::num::NonZeroU64;

use clap::Args;
use snapshot_memory::{CaptureControl, Pace, lower_priority};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::quantity::parse_bytes;

/// How much of the host a command takes.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Pacing {
    /// Give way to others: idle I/O priority, and less of the CPUs
    #[arg(long)]
    background: bool,

    /// Move at most so many bytes of memory a second to the disk, or from it
    #[arg(long, visible_alias = "bytes-per-second", value_name = "RATE", value_parser = rate)]
    io_limit: Option<NonZeroU64>,
}

impl Pacing {
    /// Gives way if asked to. To be called before threads are started that are to do so too.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        if !self.background {
            return Ok(());
        }
        lower_priority().map_err(|error| {
            Failure::new(Exit::Failed, format!("lower the priority: {error}"))
                .hint("leave --background out")
        })
    }

    /// Control of writing memory: its rate, and whom it tells how far it is.
    pub(crate) fn control(&self, progress: Progress) -> CaptureControl {
        CaptureControl::default()
            .bytes_per_second(self.io_limit)
            .progress(move |so_far| progress.set(so_far.taken_bytes, so_far.total_bytes))
    }

    /// Starts the clock of other work.
    pub(crate) fn start(&self, context: &Context) -> Pace {
        Pace::start(context.interrupt.cancel(), self.io_limit)
    }
}

/// Bytes a second; none at all would be no work.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = parse_bytes(text)?;
    NonZeroU64::new(bytes).ok_or_else(|| "nothing is ever done at 0 bytes a second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-31
    #[test]
    fn a_rate_is_a_size_above_zero() {
        assert_eq!(rate("2M"), Ok(NonZeroU64::new(2 << 20).unwrap()));
        for text in ["0", "0x0", "0G", "fast", "-1", ""] {
            assert!(rate(text).is_err(), "{text:?} was accepted");
        }
    }
}
