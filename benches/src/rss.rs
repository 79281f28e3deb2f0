//! What a full snapshot needs of memory, beside the guest's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use snapshot_format::PAGE_BYTES;

use crate::engine::{Engine, Way};
use crate::error::BenchError;
use crate::guest::{Content, Guest, HostPages};
use crate::place::Place;
use crate::plan::RSS;
use crate::row::{Case, Row};
use crate::sample::Samples;

/// What a capture may take, whatever the guest's size, and bits beyond that for each page.
const ALLOWED_BYTES: u64 = 64 << 20;
const ALLOWED_BITS: u64 = 3;

const STATUS: &str = "/proc/self/status";

/// Writing 5 to it makes the peak of resident memory what is resident now.
const RESET_PEAK: &str = "/proc/self/clear_refs";

/// Takes one full snapshot of a guest of `mem_bytes` and looks at the peak of resident memory. No
/// row where the kernel doesn't tell, which is said on standard error.
pub(crate) fn run(mem_bytes: u64, place: &Place) -> Result<Vec<Row>, BenchError> {
    let guest = Guest::new(mem_bytes, Content::Random, HostPages::Small, 0x4e55)?;
    let engine = Engine::with_parent(place.scratch(), None)?;
    if let Err(error) = fs::write(RESET_PEAK, "5") {
        eprintln!("SKIP rss: write {RESET_PEAK}: {error}");
        return Ok(Vec::new());
    }
    let before = resident("VmRSS")?;
    let took = engine.take(&guest, None, &Way::default())?;
    let peak = resident("VmHWM")?;
    place.scratch().remove_kept()?;
    let case = Case {
        suite: "memory",
        name: place.case(RSS),
        policy: "peak of resident memory beyond the guest's".to_owned(),
        file_system: Some(place.file_system().name.clone()),
        counts: BTreeMap::from([
            ("mem_bytes".to_owned(), mem_bytes),
            ("rss_bytes".to_owned(), peak.saturating_sub(before)),
            (
                "rss_allowed_bytes".to_owned(),
                ALLOWED_BYTES + mem_bytes / PAGE_BYTES * ALLOWED_BITS / 8,
            ),
        ]),
        figures: BTreeMap::new(),
    };
    let ours = Samples {
        name: "ours",
        ms: vec![took.as_secs_f64() * 1e3],
    };
    Ok(case.compare(&ours, &[]))
}

/// A line `name: N kB` of the process's status, in bytes.
pub(crate) fn resident(name: &str) -> Result<u64, BenchError> {
    let path = Path::new(STATUS);
    let text = fs::read_to_string(path).map_err(BenchError::at("read", path))?;
    kilobytes(&text, name).ok_or_else(|| {
        BenchError::at("find resident memory in", path)(std::io::ErrorKind::InvalidData.into())
    })
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(2 << 20));
        assert_eq!(kilobytes(status, "VmRSS"), Some(12 << 10));
        assert_eq!(kilobytes(status, "Vm"), None);
        assert!(resident("VmRSS").unwrap() > 1 << 20);
    }
}
