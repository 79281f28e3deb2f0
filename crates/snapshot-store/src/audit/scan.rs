//! Reading the log from its beginning, a piece at a time.

use std::collections::BTreeMap;

use snapshot_format::Digest;

use super::entry::{AuditEntry, AuditEvent, MAX_LINE_BYTES, START, chained};
use super::read::{AuditProblem, AuditReport, UnfinishedIntent};

/// Intents and damages that are listed.
const MAX_LISTED: usize = 1000;

/// What is known of a log up to some byte of it.
pub(super) struct Scan<'e> {
    /// Told of each entry, with the chain up to it.
    each: &'e mut dyn FnMut(&AuditEntry, Digest),
    wanted: Option<Digest>,
    report: AuditReport,
    unfinished: BTreeMap<u64, String>,
    /// The line so far; nothing of one that is too long.
    line: Vec<u8>,
    is_too_long: bool,
    line_start: u64,
    offset: u64,
    torn: Option<Torn>,
}

/// Bytes since the last entry that are none.
struct Torn {
    hasher: blake3::Hasher,
    start: u64,
    bytes: u64,
}

impl<'e> Scan<'e> {
    /// The beginning of a log, in which an entry with the chain `wanted` is looked for.
    pub(super) fn new(
        wanted: Option<Digest>,
        each: &'e mut dyn FnMut(&AuditEntry, Digest),
    ) -> Self {
        let report = AuditReport {
            head_found: wanted.map(|wanted| wanted == START),
            ..AuditReport::default()
        };
        Self {
            each,
            wanted,
            report,
            unfinished: BTreeMap::new(),
            line: Vec::new(),
            is_too_long: false,
            line_start: 0,
            offset: 0,
            torn: None,
        }
    }

    /// Takes the bytes that follow.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            self.extend(line.unwrap_or(piece));
            if line.is_some() {
                self.end_line();
            }
            self.offset += piece.len() as u64;
            if line.is_some() {
                self.line_start = self.offset;
            }
        }
    }

    /// What the whole log says; the digest of the torn bytes at its end, if there are any.
    pub(super) fn finish(mut self) -> (AuditReport, Option<Digest>) {
        let line = std::mem::take(&mut self.line);
        match AuditEntry::parse(&line) {
            _ if line.is_empty() => {}
            // Whole, but for its line feed.
            Some((chain, body, entry)) => self.entry(chain, body, &entry),
            None => self.tear(&line, true),
        }
        let torn = self.torn.take();
        self.report.torn_bytes = torn.as_ref().map_or(0, |torn| torn.bytes);
        let list = |(seq, command)| UnfinishedIntent { seq, command };
        self.report.unfinished = self.unfinished.into_iter().map(list).collect();
        self.report.ok = self.report.problem_count == 0 && self.report.head_found != Some(false);
        let torn = torn.map(|torn| Digest(*torn.hasher.finalize().as_bytes()));
        (self.report, torn)
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.is_too_long {
            self.tear(bytes, false);
        } else if self.line.len() + bytes.len() < MAX_LINE_BYTES {
            self.line.extend_from_slice(bytes);
        } else {
            self.is_too_long = true;
            let line = std::mem::take(&mut self.line);
            self.tear(&line, true);
            self.tear(bytes, false);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_too_long) {
            self.damage(self.line_start, "a line is longer than an entry can be");
            return;
        }
        match AuditEntry::parse(&line) {
            Some((chain, body, entry)) => self.entry(chain, body, &entry),
            None => self.tear(&line, true),
        }
    }

    fn entry(&mut self, chain: Digest, body: &[u8], entry: &AuditEntry) {
        let torn = self.torn.take();
        let start = torn.as_ref().map_or(self.line_start, |torn| torn.start);
        let torn = torn.map(|torn| Digest(*torn.hasher.finalize().as_bytes()));
        if torn != entry.torn {
            self.damage(
                start,
                "what lies before the next entry is not what that names",
            );
        }
        let is_chained = chained(self.report.head, body) == chain;
        if !is_chained {
            self.damage(self.line_start, "the chain does not go on here");
        }
        if entry.seq != self.report.last_seq.saturating_add(1) {
            self.damage(self.line_start, "the numbers do not go on here");
        }
        // What follows is held against this entry: each damage is told once.
        self.report.head = chain;
        self.report.last_seq = entry.seq;
        self.report.entries += 1;
        if is_chained && self.wanted == Some(chain) {
            self.report.head_found = Some(true);
        }
        self.follow(entry);
        (self.each)(entry, chain);
    }

    fn follow(&mut self, entry: &AuditEntry) {
        match &entry.event {
            AuditEvent::Intent { command, .. } => {
                self.report.unfinished_count += 1;
                self.unfinished.insert(entry.seq, command.clone());
                if self.unfinished.len() > MAX_LISTED {
                    self.unfinished.pop_first();
                }
            }
            AuditEvent::Outcome { of, .. } => {
                let listed = self.unfinished.len() as u64;
                let is_known = self.unfinished.remove(of).is_some();
                // It may be one of those that are counted and not listed any more.
                if is_known || self.report.unfinished_count > listed {
                    self.report.unfinished_count -= 1;
                }
            }
        }
    }

    /// Notes bytes that are no entry: those of a new line, or more of the same one.
    fn tear(&mut self, bytes: &[u8], is_new_line: bool) {
        let start = self.line_start;
        let between: &[u8] = match &self.torn {
            Some(_) if is_new_line => b"\n",
            _ => b"",
        };
        let torn = self.torn.get_or_insert_with(|| Torn {
            hasher: blake3::Hasher::new(),
            start,
            bytes: 0,
        });
        torn.hasher.update(between);
        torn.hasher.update(bytes);
        torn.bytes += (between.len() + bytes.len()) as u64;
    }

    fn damage(&mut self, offset: u64, problem: &'static str) {
        self.report.problem_count += 1;
        if self.report.problems.len() < MAX_LISTED {
            self.report.problems.push(AuditProblem { offset, problem });
        }
    }
}
