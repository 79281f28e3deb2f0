//! Whether the files of a snapshot are those that were read.

use std::num::NonZeroUsize;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use snapshot_format::{FileKind, SnapshotId};
use snapshot_memory::backend::{FileStamp, RelPath};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::store::Store;

/// Bytes of a stamp in the index.
pub(super) const STAMP_BYTES: usize = 48;

/// The stamps of `manifest.vms` and `snapshot.json`, as they are kept; zeros for what is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamps {
    pub(super) manifest: [u8; STAMP_BYTES],
    pub(super) metadata: [u8; STAMP_BYTES],
}

/// The stamps of a snapshot, and whether any other state of its files would have other ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamped {
    pub(super) stamps: Stamps,
    pub(super) is_settled: bool,
}

/// A change that is no older than this may be followed by another one with the same times: file
/// systems count in steps, of up to two seconds.
pub(super) const UNSETTLED: Duration = Duration::from_secs(2);

/// Threads that look at files, at most.
const MAX_THREADS: usize = 4;

/// Snapshots that one thread looks at before another one is worth its start.
const SHARE: usize = 512;

/// The stamps of snapshots, in the order of `ids`; `None` where the file system tells of none.
/// Changes within `unsettled` of now are not settled.
///
/// Meanwhile `beside` is run, whose outcome is given too: most of the time goes by in the kernel,
/// looking up names.
pub(super) fn of<T>(
    store: &Store,
    location: Location,
    ids: &[SnapshotId],
    unsettled: Duration,
    beside: impl FnOnce() -> T,
) -> (Result<Option<Vec<Stamped>>, StoreError>, T) {
    let now = now_ns();
    let look = |ids: &[SnapshotId]| part(store, location, ids, unsettled, now);
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let shares = ids.len().div_ceil(SHARE).clamp(1, cores.min(MAX_THREADS));
    if shares == 1 {
        return (look(ids), beside());
    }
    std::thread::scope(|scope| {
        let parts = ids.chunks(ids.len().div_ceil(shares));
        let started: Vec<_> = parts
            .map(|ids| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, move || look(ids));
                (ids, thread)
            })
            .collect();
        let beside = beside();
        let mut all = Some(Vec::with_capacity(ids.len()));
        for (ids, thread) in started {
            let found = match thread.map(ScopedJoinHandle::join) {
                Ok(Ok(found)) => found,
                // There is no thread to be had, or it went down.
                Err(_) | Ok(Err(_)) => look(ids),
            };
            match found {
                Ok(Some(found)) => all.iter_mut().for_each(|all| all.extend(&found)),
                Ok(None) => all = None,
                Err(error) => return (Err(error), beside),
            }
        }
        (Ok(all), beside)
    })
}

/// The stamps of some of them; `now_ns` is not after any is taken.
fn part(
    store: &Store,
    location: Location,
    ids: &[SnapshotId],
    unsettled: Duration,
    now_ns: i64,
) -> Result<Option<Vec<Stamped>>, StoreError> {
    let root = RelPath::root();
    let folders: Vec<RelPath> = ids
        .iter()
        .map(|id| directory::below(&root, &id.to_string()))
        .collect();
    let files = [&FileKind::Manifest.file_name(0), directory::METADATA_FILE]
        .map(|name| directory::below(&root, name));
    let path = location.directory();
    let found = match store.backend().stamps(&path, &folders, &files) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(None),
        found => found.map_err(|error| StoreError::io("look at the files of", &path, error))?,
    };
    let pairs = found.chunks_exact(2).map(|pair| {
        let [manifest, metadata] =
            [pair.first(), pair.last()].map(|stamp| stamp.copied().flatten());
        Stamped {
            stamps: Stamps {
                manifest: bytes(manifest),
                metadata: bytes(metadata),
            },
            is_settled: [manifest, metadata]
                .iter()
                .flatten()
                .all(|stamp| is_settled(stamp, now_ns, unsettled)),
        }
    });
    Ok(Some(pairs.collect()))
}

fn bytes(stamp: Option<FileStamp>) -> [u8; STAMP_BYTES] {
    let mut bytes = [0; STAMP_BYTES];
    let Some(stamp) = stamp else {
        return bytes;
    };
    let numbers = [
        stamp.device.to_le_bytes(),
        stamp.inode.to_le_bytes(),
        stamp.len_bytes.to_le_bytes(),
        stamp.modified_ns.to_le_bytes(),
        stamp.changed_ns.to_le_bytes(),
    ];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number);
    }
    bytes
}

/// Whether the times of a file are so far back that a change of it shows.
fn is_settled(stamp: &FileStamp, now_ns: i64, unsettled: Duration) -> bool {
    let is_past =
        |time: i64| time < now_ns && u128::from(now_ns.abs_diff(time)) > unsettled.as_nanos();
    is_past(stamp.modified_ns) && is_past(stamp.changed_ns)
}

/// The present; 0 where the clock says nothing that can be used, and then nothing is settled.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> FileStamp {
        FileStamp {
            device: 1,
            inode: 2,
            len_bytes: 3,
            modified_ns: 40_000_000_000,
            changed_ns: 50_000_000_000,
        }
    }

    // spec: IDX-06
    #[test]
    fn a_change_settles_after_two_seconds_and_one_of_the_future_never() {
        let at = |seconds: i64| is_settled(&stamp(), seconds * 1_000_000_000, UNSETTLED);
        assert!(at(53));
        for seconds in [0, 38, 41, 49, 50, 51, 52] {
            assert!(!at(seconds), "at second {seconds}");
        }
        // Times that somebody has set count as well.
        let set = FileStamp {
            modified_ns: 60_000_000_000,
            ..stamp()
        };
        assert!(!is_settled(&set, 55_000_000_000, UNSETTLED));
    }

    // spec: IDX-04
    #[test]
    fn every_number_of_a_stamp_counts() {
        let ours = bytes(Some(stamp()));
        let numbers: Vec<u8> = ours.chunks_exact(8).map(|number| number[0]).collect();
        assert_eq!(numbers[..3], [1, 2, 3]);
        let changes: [fn(&mut FileStamp); 5] = [
            |s| s.device += 1,
            |s| s.inode += 1,
            |s| s.len_bytes += 1,
            |s| s.modified_ns += 1,
            |s| s.changed_ns += 1,
        ];
        for change in changes {
            let mut other = stamp();
            change(&mut other);
            assert_ne!(bytes(Some(other)), ours, "{other:?}");
        }
        assert_eq!(bytes(None), [0; STAMP_BYTES]);
    }
}
