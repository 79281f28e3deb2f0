//! One entry of the audit log, and the line that it is.

use serde::{Deserialize, Serialize};
use snapshot_format::{Digest, SnapshotId};

/// The version of an entry that this build writes.
const VERSION: u32 = 1;

/// The longest line that is written or read, its line feed included.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;

/// Arguments of an intent.
const MAX_ARGUMENTS: usize = 256;

/// Bytes of an argument, of a command, and of a host name.
const MAX_ARGUMENT_BYTES: usize = 256;

/// Bytes of a message.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Snapshots of an entry.
const MAX_SNAPSHOTS: usize = 4096;

/// The chain before the first entry.
pub(super) const START: Digest = Digest([0; 32]);

const BEFORE_CHAIN: &str = "{\"chain\":\"";
const BEFORE_BODY: &str = "\",\"body\":";
const AFTER_BODY: &str = "}";

/// Who does something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// The host.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: u32,
}

/// An entry of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The version of all that follows.
    pub version: u32,
    /// Its number, from 1.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970: for people, nothing is decided by it.
    pub at_unix_ms: u64,
    /// Who wrote it.
    #[serde(flatten)]
    pub actor: Actor,
    /// What it tells.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The snapshots that the command concerns, as far as they are known.
    #[serde(default)]
    pub snapshots: Vec<SnapshotId>,
    /// The digest of the torn bytes before this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Digest>,
}

/// What an entry tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
pub enum AuditEvent {
    /// A command begins.
    Intent {
        /// Its name.
        command: String,
        /// What it was given.
        arguments: Vec<String>,
    },
    /// A command has ended.
    Outcome {
        /// The number of its intent.
        of: u64,
        /// How: a name of the exit codes.
        result: String,
        /// The error, or nothing.
        message: String,
    },
}

impl AuditEntry {
    /// An entry with all texts and lists cut to what a line may hold.
    pub(super) fn new(
        seq: u64,
        at_unix_ms: u64,
        actor: &Actor,
        event: &AuditEvent,
        snapshots: &[SnapshotId],
        torn: Option<Digest>,
    ) -> Self {
        Self {
            version: VERSION,
            seq,
            at_unix_ms,
            actor: Actor {
                host: cut(&actor.host, MAX_ARGUMENT_BYTES),
                ..actor.clone()
            },
            event: event.cut(),
            snapshots: snapshots.iter().copied().take(MAX_SNAPSHOTS).collect(),
            torn,
        }
    }

    /// The line, with its line feed, and the chain up to it.
    pub(super) fn encode(&self, before: Digest) -> Result<(Vec<u8>, Digest), serde_json::Error> {
        let body = serde_json::to_string(self)?;
        let chain = chained(before, body.as_bytes());
        let line = format!("{BEFORE_CHAIN}{chain}{BEFORE_BODY}{body}{AFTER_BODY}\n");
        Ok((line.into_bytes(), chain))
    }

    /// The chain and the body of a line without its line feed, and the entry that the body is.
    /// `None` where the line is no entry.
    pub(super) fn parse(line: &[u8]) -> Option<(Digest, &[u8], Self)> {
        let text = std::str::from_utf8(line).ok()?;
        let (chain, rest) = text.strip_prefix(BEFORE_CHAIN)?.split_once(BEFORE_BODY)?;
        let body = rest.strip_suffix(AFTER_BODY)?;
        let entry: Self = serde_json::from_str(body).ok()?;
        Some((chain.parse().ok()?, body.as_bytes(), entry))
    }
}

impl AuditEvent {
    fn cut(&self) -> Self {
        match self {
            Self::Intent { command, arguments } => Self::Intent {
                command: cut(command, MAX_ARGUMENT_BYTES),
                arguments: arguments
                    .iter()
                    .take(MAX_ARGUMENTS)
                    .map(|text| cut(text, MAX_ARGUMENT_BYTES))
                    .collect(),
            },
            Self::Outcome {
                of,
                result,
                message,
            } => Self::Outcome {
                of: *of,
                result: cut(result, MAX_ARGUMENT_BYTES),
                message: cut(message, MAX_MESSAGE_BYTES),
            },
        }
    }
}

/// The chain after an entry with this body.
pub(super) fn chained(before: Digest, body: &[u8]) -> Digest {
    Digest::of(&[before.0.as_slice(), body].concat())
}

/// As much of a text as fits.
fn cut(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor() -> Actor {
        Actor {
            host: "host".to_owned(),
            pid: 7,
            uid: 0,
        }
    }

    // spec: AUD-07
    #[test]
    fn the_longest_entry_fits_into_a_line() {
        // A control character takes six bytes in JSON.
        let event = AuditEvent::Intent {
            command: "\u{1}".repeat(1000),
            arguments: vec!["\u{1}".repeat(1000); 1000],
        };
        let ids = vec![SnapshotId([0xff; 16]); 10_000];
        let entry = AuditEntry::new(u64::MAX, u64::MAX, &actor(), &event, &ids, Some(START));
        let (line, _) = entry.encode(START).unwrap();
        assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
        let outcome = AuditEvent::Outcome {
            of: 1,
            result: "failed".to_owned(),
            message: "ä\u{1}".repeat(9000),
        };
        let entry = AuditEntry::new(2, 0, &actor(), &outcome, &ids, None);
        let (line, _) = entry.encode(START).unwrap();
        assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
    }

    // spec: AUD-05
    #[test]
    fn a_line_is_what_the_specification_says() {
        let event = AuditEvent::Outcome {
            of: 1,
            result: "done".to_owned(),
            message: String::new(),
        };
        let entry = AuditEntry::new(2, 3, &actor(), &event, &[SnapshotId([1; 16])], None);
        let (line, chain) = entry.encode(Digest([9; 32])).unwrap();
        let body = "{\"version\":1,\"seq\":2,\"at_unix_ms\":3,\"host\":\"host\",\"pid\":7,\"uid\":0,\
             \"event\":\"outcome\",\"of\":1,\"result\":\"done\",\"message\":\"\",\
             \"snapshots\":[\"01010101-0101-0101-0101-010101010101\"]}";
        let expected = format!("{{\"chain\":\"{chain}\",\"body\":{body}}}\n");
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        let covered = [[9; 32].as_slice(), body.as_bytes()].concat();
        assert_eq!(chain, Digest::of(&covered));
        let (found, bytes, parsed) = AuditEntry::parse(&line[..line.len() - 1]).unwrap();
        assert_eq!((found, bytes, parsed), (chain, body.as_bytes(), entry));
        for cut in 0..line.len() - 1 {
            assert!(AuditEntry::parse(&line[..cut]).is_none(), "cut at {cut}");
        }
    }
}
