//! `vmsnap relayout REF --layout sparse|packed`.

use clap::{Args, ValueEnum};
use snapshot_format::DataLayout;
use snapshot_memory::{FrameCodec, RelayoutOptions};
use snapshot_store::{Access, Reference, RelayoutReport};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::show_bytes;
use crate::view::short;

/// Writes the pages of a snapshot a second time, in another layout; what it holds stays the same.
#[derive(Args, Debug)]
pub(crate) struct Relayout {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Each page at its offset in the image, which can be mapped, or back to back
    #[arg(long, value_enum)]
    layout: Layout,

    /// Compress packed pages, 16 at a time: none, lz4, zstd or zstd:LEVEL
    #[arg(long, value_name = "CODEC", default_value = "none", value_parser = compression)]
    compress: Compression,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Layout {
    Sparse,
    Packed,
}

/// How packed pages are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Compression(Option<FrameCodec>);

impl Relayout {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let options = self.options()?;
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        self.pacing.begin()?;
        // How much there is to copy is told with the first bytes of it.
        let control = self.pacing.control(context.progress("relayout", 0));
        let options = options.control(control.cancel(context.interrupt.cancel()));
        let report = store.relayout(id, &options);
        let report = report.map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.relayout.v1", &report, tell)
    }

    fn options(&self) -> Result<RelayoutOptions, Failure> {
        match (self.layout, self.compress.0) {
            (Layout::Sparse, None) => Ok(RelayoutOptions::of(DataLayout::Sparse)),
            (Layout::Packed, None) => Ok(RelayoutOptions::of(DataLayout::Packed)),
            (Layout::Packed, Some(codec)) => Ok(RelayoutOptions::compressed(codec)),
            (Layout::Sparse, Some(_)) => Err(Failure::usage(
                "sparse data is mapped as it is, and cannot be compressed",
            )
            .hint("choose --layout packed, or leave --compress out")),
        }
    }
}

fn tell(report: &RelayoutReport) -> String {
    let (id, layout) = (short(report.id), name(report.layout));
    let line = if report.changed {
        format!(
            "laid snapshot {id} out as {layout} in {}{}: {} where {} took {}, which stays; placement {}",
            report.file,
            if report.written {
                ""
            } else {
                ", which was there"
            },
            show_bytes(report.bytes_after),
            name(report.layout_before),
            show_bytes(report.bytes_before),
            report.generation
        )
    } else {
        format!(
            "nothing to do: snapshot {id} lies as {layout} in {} already",
            report.file
        )
    };
    printable(&line)
}

/// The word for a layout.
fn name(layout: DataLayout) -> &'static str {
    match layout {
        DataLayout::Sparse => "sparse",
        DataLayout::Packed => "packed",
        DataLayout::Frames => "frames",
        _ => "unknown",
    }
}

/// Reads `none`, `lz4`, `zstd` or `zstd:LEVEL`.
fn compression(text: &str) -> Result<Compression, String> {
    let codec = match text.split_once(':') {
        None => match text {
            "none" => return Ok(Compression(None)),
            "lz4" => FrameCodec::Lz4,
            "zstd" => FrameCodec::ZSTD,
            _ => return Err("it is none, lz4, zstd or zstd:LEVEL".to_owned()),
        },
        Some(("zstd", level)) => {
            let level = level.parse().ok().filter(|level| (1..=22).contains(level));
            FrameCodec::Zstd {
                level: level.ok_or("levels of zstd are 1 to 22")?,
            }
        }
        Some(_) => return Err("only zstd has levels".to_owned()),
    };
    Ok(Compression(Some(codec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-33
    #[test]
    fn a_compression_is_one_that_there_is() {
        let codec = |text| compression(text).map(|compression| compression.0);
        assert_eq!(codec("none"), Ok(None));
        assert_eq!(codec("lz4"), Ok(Some(FrameCodec::Lz4)));
        assert_eq!(codec("zstd"), Ok(Some(FrameCodec::ZSTD)));
        let best = FrameCodec::Zstd { level: 22 };
        assert_eq!(codec("zstd:22"), Ok(Some(best)));
        for text in ["", "zstd:", "zstd:0", "zstd:23", "lz4:1", "gzip"] {
            assert!(codec(text).is_err(), "{text:?} was accepted");
        }
    }
}
