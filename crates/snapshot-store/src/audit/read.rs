//! Reading the audit log, and checking it.

use serde::Serialize;
use snapshot_format::Digest;

use super::entry::AuditEntry;
use super::scan::Scan;
use crate::directory;
use crate::error::StoreError;
use crate::store::Store;

/// What the audit log says as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditReport {
    /// Whether nothing is wrong with it.
    pub ok: bool,
    /// How many entries it has.
    pub entries: u64,
    /// The number of the last one.
    pub last_seq: u64,
    /// The chain of the last one: keep it, to tell later that nothing before it was changed.
    pub head: Digest,
    /// Whether an entry has the chain that was looked for; `None` if none was.
    pub head_found: Option<bool>,
    /// How many intents have no outcome: commands that run, or that were cut short.
    pub unfinished_count: u64,
    /// The last ones of those.
    pub unfinished: Vec<UnfinishedIntent>,
    /// Bytes behind the last entry that are none.
    pub torn_bytes: u64,
    /// How much is damaged.
    pub problem_count: u64,
    /// The first of that.
    pub problems: Vec<AuditProblem>,
}

/// An intent without an outcome.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct UnfinishedIntent {
    /// The number of its entry.
    pub seq: u64,
    /// The command.
    pub command: String,
}

/// Something that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditProblem {
    /// At which byte of the file.
    pub offset: u64,
    /// What is wrong.
    pub problem: &'static str,
}

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

impl Default for AuditReport {
    fn default() -> Self {
        Self {
            ok: true,
            entries: 0,
            last_seq: 0,
            head: super::entry::START,
            head_found: None,
            unfinished_count: 0,
            unfinished: Vec::new(),
            torn_bytes: 0,
            problem_count: 0,
            problems: Vec::new(),
        }
    }
}

impl Store {
    /// Reads the audit log and checks it; `each` is told of every entry, with the chain up to it.
    ///
    /// With `head`, an entry with this chain must be there: the log as it was then is the beginning
    /// of the log as it is now.
    pub fn read_audit(
        &self,
        head: Option<Digest>,
        each: &mut dyn FnMut(&AuditEntry, Digest),
    ) -> Result<AuditReport, StoreError> {
        Ok(self.scan_audit(head, each)?.0)
    }

    /// The same, with the digest of the torn bytes at the end.
    pub(super) fn scan_audit(
        &self,
        head: Option<Digest>,
        each: &mut dyn FnMut(&AuditEntry, Digest),
    ) -> Result<(AuditReport, Option<Digest>), StoreError> {
        let path = directory::audit_file();
        let mut scan = Scan::new(head, each);
        let file = match self.backend().open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(scan.finish());
            }
            found => found.map_err(|error| StoreError::io("open", &path, error))?,
        };
        let failed = |error| StoreError::io("read", &path, error);
        let len = file.len().map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut offset = 0;
        while offset < len {
            let count = usize::try_from(len - offset).unwrap_or(PIECE_BYTES);
            let bytes = piece.get_mut(..count.min(PIECE_BYTES)).unwrap_or_default();
            file.read_exact_at(offset, bytes).map_err(failed)?;
            scan.feed(bytes);
            offset += bytes.len() as u64;
        }
        Ok(scan.finish())
    }
}
