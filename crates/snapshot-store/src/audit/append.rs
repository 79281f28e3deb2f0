//! Appending to the audit log.

use std::time::{SystemTime, UNIX_EPOCH};

use snapshot_format::{Digest, SnapshotId};
use snapshot_memory::backend::ReadFile;

use super::entry::{Actor, AuditEntry, AuditEvent, START};
use crate::directory;
use crate::error::StoreError;
use crate::store::Store;

/// An intent that is in the log, and is to have an outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "an intent without an outcome looks like a command that was cut short"]
pub struct Intent {
    actor: Actor,
    seq: u64,
}

/// What the next entry follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    seq: u64,
    chain: Digest,
    /// The digest of what lies behind the last entry.
    torn: Option<Digest>,
    /// Whether the file ends within a line.
    is_open: bool,
}

/// Bytes at the end of the file in which the last entry is looked for first.
const TAIL_BYTES: u64 = 64 << 10;

impl Intent {
    /// The number of its entry.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Store {
    /// Writes down that a command is about to change the store.
    pub fn audit_intent(
        &self,
        actor: Actor,
        command: &str,
        arguments: &[String],
        snapshots: &[SnapshotId],
    ) -> Result<Intent, StoreError> {
        let event = AuditEvent::Intent {
            command: command.to_owned(),
            arguments: arguments.to_vec(),
        };
        let seq = self.append_audit(&actor, &event, snapshots)?;
        Ok(Intent { actor, seq })
    }

    /// Writes down how the command of `intent` ended: `result` is a name of the exit codes, and
    /// `message` the error.
    pub fn audit_outcome(
        &self,
        intent: &Intent,
        result: &str,
        message: &str,
        snapshots: &[SnapshotId],
    ) -> Result<(), StoreError> {
        let event = AuditEvent::Outcome {
            of: intent.seq,
            result: result.to_owned(),
            message: message.to_owned(),
        };
        self.append_audit(&intent.actor, &event, snapshots)
            .map(drop)
    }

    fn append_audit(
        &self,
        actor: &Actor,
        event: &AuditEvent,
        snapshots: &[SnapshotId],
    ) -> Result<u64, StoreError> {
        self.begin_write()?;
        let _alone = self.lock_exclusively(&directory::audit_lock())?;
        let end = self.end_of_audit()?;
        let seq = end.seq.saturating_add(1);
        let entry = AuditEntry::new(seq, now_unix_ms(), actor, event, snapshots, end.torn);
        let encoded = entry.encode(end.chain);
        let (line, _) = encoded.map_err(|source| StoreError::EncodeJson { source })?;
        let close: &[u8] = if end.is_open { b"\n" } else { b"" };
        let path = directory::audit_file();
        self.backend()
            .append(&path, &[close, &line].concat())
            .map_err(|error| StoreError::io("append to", &path, error))?;
        Ok(seq)
    }

    /// What the next entry follows. `locks/audit` is held.
    fn end_of_audit(&self) -> Result<End, StoreError> {
        let path = directory::audit_file();
        let file = match self.backend().open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(End::EMPTY),
            found => found.map_err(|error| StoreError::io("open", &path, error))?,
        };
        let tail = tail(&*file).map_err(|error| StoreError::io("read", &path, error))?;
        if let Some(end) = End::of_tail(&tail) {
            return Ok(end);
        }
        let (report, torn) = self.scan_audit(None, &mut |_, _| {})?;
        Ok(End {
            seq: report.last_seq,
            chain: report.head,
            torn,
            is_open: tail.last().is_some_and(|byte| *byte != b'\n'),
        })
    }
}

impl End {
    const EMPTY: Self = Self {
        seq: 0,
        chain: START,
        torn: None,
        is_open: false,
    };

    /// The end of a file that ends with these bytes; `None` where there is no entry in them.
    fn of_tail(tail: &[u8]) -> Option<Self> {
        let is_open = tail.last().is_some_and(|byte| *byte != b'\n');
        let last = tail.rsplit(|byte| *byte == b'\n').next()?;
        // Whole, but for its line feed.
        if let Some((chain, _, entry)) = AuditEntry::parse(last) {
            return Some(Self {
                seq: entry.seq,
                chain,
                torn: None,
                is_open,
            });
        }
        // From the back: the bytes behind each line feed are what is torn if it ends an entry.
        let mut end = tail.len();
        while let Some(feed) = tail.get(..end)?.iter().rposition(|byte| *byte == b'\n') {
            let line = tail.get(..feed)?.rsplit(|byte| *byte == b'\n').next()?;
            if let Some((chain, _, entry)) = AuditEntry::parse(line) {
                let behind = tail.get(feed + 1..)?;
                let torn = behind.strip_suffix(b"\n").unwrap_or(behind);
                return Some(Self {
                    seq: entry.seq,
                    chain,
                    torn: (!behind.is_empty()).then(|| Digest::of(torn)),
                    is_open,
                });
            }
            end = feed;
        }
        None
    }
}

/// The last bytes of a file.
fn tail(file: &dyn ReadFile) -> std::io::Result<Vec<u8>> {
    let len = file.len()?;
    let count = len.min(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
    file.read_exact_at(len - count, &mut bytes)?;
    Ok(bytes)
}

/// For people: nothing is decided by it.
fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
