//! The index of a working set: which pages, in which order, and what their bytes hash to.

use std::ops::Range;

use super::{
    WORKING_SET_HEADER_BYTES, WORKING_SET_READER_MINOR, WORKING_SET_RUN_BYTES,
    WORKING_SET_UNIT_BYTES, WORKING_SET_UNIT_PAGES, WORKING_SET_VERSION, WorkingSetOrigin,
    WorkingSetRun,
};
use crate::address::PAGE_BYTES;
use crate::bytes::{Fields, check_zero};
use crate::codec::Codec;
use crate::envelope::{
    Arch, Envelope, FileKind, HEADER_BYTES, Header, Operation, SectionEntry, SectionTable,
    envelope_digest,
};
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId};
use crate::limits;
use crate::page_map::LEAF_PAGES;
use crate::section::SectionKind;

/// What a working set says but the bytes of its pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkingSetIndex {
    /// BLAKE3 of the snapshot's `manifest.vms`: with the id, which memory the pages are of.
    pub manifest: Digest,
    /// Pages of the image.
    pub page_count: u64,
    /// How the pages became known.
    pub origin: WorkingSetOrigin,
    /// The pages, each at most once, in the order in which they are brought back.
    pub runs: Vec<WorkingSetRun>,
    /// BLAKE3 of each unit of the data, in order.
    pub digests: Vec<Digest>,
}

/// Everything of a working set's file but its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkingSetFrame {
    /// Header and index: the bytes before the data.
    pub head: Vec<u8>,
    /// The section table: the bytes after the data.
    pub tail: Vec<u8>,
    /// What a placement names the file by.
    pub digest: Digest,
    /// The length of the whole file in bytes.
    pub file_len: u64,
}

/// Where fields of the fixed part start. The table of `specs/21-working-set.md` must agree.
mod at {
    pub(super) const PAGE_COUNT: u64 = 32;
    pub(super) const RUN_COUNT: u64 = 40;
    pub(super) const DATA_PAGES: u64 = 44;
    pub(super) const UNIT_PAGES: u64 = 48;
    pub(super) const ORIGIN: u64 = 50;
    pub(super) const RUNS: u64 = super::WORKING_SET_HEADER_BYTES as u64;
}

const PART: Part = SectionKind::WORKING_SET.part(0);

impl WorkingSetIndex {
    /// Pages of which the file holds bytes.
    #[must_use]
    pub fn data_pages(&self) -> u64 {
        self.runs.iter().map(WorkingSetRun::data_pages).sum()
    }

    /// Pages that are zero.
    #[must_use]
    pub fn zero_pages(&self) -> u64 {
        let all: u64 = self.runs.iter().map(|run| run.pages.count).sum();
        all - self.data_pages()
    }

    /// Bytes of the data.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.data_pages() * PAGE_BYTES
    }

    /// Where the data starts in the file: at a multiple of 4096.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        (HEADER_BYTES + self.encoded_len()) as u64
    }

    /// Which bytes of the data a unit covers; `None` beyond the last.
    #[must_use]
    pub fn unit_range(&self, unit: usize) -> Option<Range<u64>> {
        let start = (unit as u64).checked_mul(UNIT_BYTES)?;
        let len = self.data_len();
        (start < len).then(|| start..len.min(start + UNIT_BYTES))
    }

    /// Checks the bytes of a unit. The offset of an error counts from the start of the file.
    pub fn check_unit(&self, unit: usize, bytes: &[u8]) -> Result<(), DecodeError> {
        let part = SectionKind::WORKING_SET_DATA.part(0);
        let (Some(range), Some(stored)) = (self.unit_range(unit), self.digests.get(unit)) else {
            return Err(DecodeError::Missing { part });
        };
        let offset = self.data_offset() + range.start;
        let needed = range.end - range.start;
        if bytes.len() as u64 != needed {
            return Err(DecodeError::Length {
                part,
                offset,
                needed,
                found: bytes.len() as u64,
            });
        }
        stored.check(bytes).map_err(|computed| DecodeError::Digest {
            part,
            offset,
            stored: *stored,
            computed,
        })
    }

    /// The section, padded so that the data behind it starts at a multiple of 4096.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend(self.manifest.0);
        bytes.extend(self.page_count.to_le_bytes());
        bytes.extend(count(self.runs.len() as u64));
        bytes.extend(count(self.data_pages()));
        bytes.extend(WORKING_SET_UNIT_PAGES.to_le_bytes());
        bytes.extend(self.origin.number().to_le_bytes());
        bytes.resize(WORKING_SET_HEADER_BYTES, 0);
        bytes.extend(self.runs.iter().flat_map(WorkingSetRun::encode));
        bytes.extend(self.digests.iter().flat_map(|digest| digest.0));
        bytes.resize(self.encoded_len(), 0);
        bytes
    }

    /// Checks the bytes of an index by themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, PART);
        let manifest = Digest(fields.array()?);
        let page_count = fields.u64()?;
        let (run_count, data_pages) = (fields.u32()?, fields.u32()?);
        let (unit_pages, origin) = (fields.u16()?, fields.u16()?);
        fields.reserved::<12>()?;
        check_counts(&fields, page_count, run_count, data_pages)?;
        if unit_pages != WORKING_SET_UNIT_PAGES {
            let rule = "a digest covers 16 pages";
            return Err(fields.invalid(at::UNIT_PAGES, rule, unit_pages.into()));
        }
        let origin = WorkingSetOrigin::from_number(origin).ok_or_else(|| {
            let rule = "a working set is traced (1), resident (2), present (3) or named (4)";
            fields.invalid(at::ORIGIN, rule, origin.into())
        })?;
        let units = data_pages.div_ceil(WORKING_SET_UNIT_PAGES.into()) as usize;
        if bytes.len() != encoded_len(run_count as usize, units) {
            return Err(DecodeError::Length {
                part: PART,
                offset: 0,
                needed: encoded_len(run_count as usize, units) as u64,
                found: bytes.len() as u64,
            });
        }
        let runs =
            (0..run_count).map(|_| Ok(WorkingSetRun::decode([fields.u32()?, fields.u32()?])));
        let runs = runs.collect::<Result<Vec<_>, DecodeError>>()?;
        let digests = (0..units).map(|_| fields.array().map(Digest));
        let digests = digests.collect::<Result<Vec<_>, _>>()?;
        let padding = bytes.len() - filled_len(run_count as usize, units);
        let at = fields.offset();
        check_zero(fields.take(padding)?, PART, at)?;
        let index = Self {
            manifest,
            page_count,
            origin,
            runs,
            digests,
        };
        index.check_runs(&fields, data_pages)?;
        Ok(index)
    }

    /// Checks the index of a working set against its header and its section table.
    ///
    /// Reads no byte of the data, and says nothing of it but that it has its place.
    pub fn parse(header: &Header, table: &SectionTable, bytes: &[u8]) -> Result<Self, DecodeError> {
        let entry = Self::entry(header, table)?;
        entry.verify(bytes)?;
        let index = Self::decode(bytes).map_err(|error| error.shifted(entry.offset))?;
        let data = table.get(SectionKind::WORKING_SET_DATA, 0)?;
        if data.stored_len != index.data_len() {
            return Err(DecodeError::Length {
                part: data.part(),
                offset: data.offset,
                needed: index.data_len(),
                found: data.stored_len,
            });
        }
        Ok(index)
    }

    /// The entry of the index, once it is known that it and the data are where they must be.
    pub fn entry<'t>(
        header: &Header,
        table: &'t SectionTable,
    ) -> Result<&'t SectionEntry, DecodeError> {
        header.expect_kind(FileKind::WorkingSet)?;
        header.allows(Operation::Read)?;
        let entry = table.get(SectionKind::WORKING_SET, 0)?;
        let data = table.get(SectionKind::WORKING_SET_DATA, 0)?;
        for entry in [entry, data] {
            if entry.version != WORKING_SET_VERSION {
                return Err(DecodeError::Version {
                    part: entry.part(),
                    offset: entry.offset,
                    found: entry.version,
                    reads: WORKING_SET_VERSION,
                });
            }
            if entry.codec != Codec::Raw.number() || entry.compression != 0 {
                return Err(DecodeError::NotUnderstood {
                    part: entry.part(),
                    offset: entry.offset,
                    why: "the sections of a working set are raw and not compressed",
                });
            }
        }
        if entry.stored_len > limits::MAX_SECTION_BYTES {
            return Err(DecodeError::Limit {
                part: PART,
                offset: entry.offset,
                what: "bytes",
                found: entry.stored_len,
                limit: limits::MAX_SECTION_BYTES,
            });
        }
        let is_first = entry.offset == HEADER_BYTES as u64;
        if !is_first || data.offset != entry.end() || table.entries().len() != 2 {
            return Err(DecodeError::Invalid {
                part: PART,
                offset: entry.offset,
                rule: "a working set has its index first, then its data, and no other section",
                found: data.offset,
            });
        }
        if header.reader_minor < WORKING_SET_READER_MINOR {
            return Err(DecodeError::Invalid {
                part: PART,
                offset: entry.offset,
                rule: "the header asks for a reader that knows working sets",
                found: header.reader_minor.into(),
            });
        }
        Ok(entry)
    }

    /// Checks a whole file that is in memory, with the digest of every unit.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse_kind(bytes, FileKind::WorkingSet)?;
        let section = envelope.section(SectionKind::WORKING_SET, 0)?;
        let index = Self::parse(envelope.header(), envelope.table(), section)?;
        let data = envelope.section(SectionKind::WORKING_SET_DATA, 0)?;
        for (unit, bytes) in data.chunks(WORKING_SET_UNIT_BYTES).enumerate() {
            index.check_unit(unit, bytes)?;
        }
        Ok(index)
    }

    /// What goes before and after the data, whose digest as a whole is `data`.
    #[must_use]
    pub fn frame(&self, id: SnapshotId, data: Digest) -> WorkingSetFrame {
        let index = self.encode();
        let entry = |kind| SectionEntry::new(kind, 0, WORKING_SET_VERSION, Codec::Raw);
        let start = HEADER_BYTES as u64;
        let table = SectionTable::new(vec![
            entry(SectionKind::WORKING_SET).located(start, index.len() as u64, Digest::of(&index)),
            entry(SectionKind::WORKING_SET_DATA).located(self.data_offset(), self.data_len(), data),
        ]);
        let mut header = Header::new(FileKind::WorkingSet, Arch::None, id, None);
        header.reader_minor = WORKING_SET_READER_MINOR;
        let (header, tail) = table.close(header);
        let file_len = header.file_len;
        let header = header.encode();
        WorkingSetFrame {
            digest: envelope_digest(&header, &tail),
            head: [header.as_slice(), &index].concat(),
            tail,
            file_len,
        }
    }

    fn encoded_len(&self) -> usize {
        encoded_len(self.runs.len(), self.digests.len())
    }

    /// The rules of runs: none is empty, all lie in the image, no page comes twice.
    fn check_runs(&self, fields: &Fields<'_>, data_pages: u32) -> Result<(), DecodeError> {
        let place = |run: usize| at::RUNS + (run * WORKING_SET_RUN_BYTES) as u64;
        let mut sum = 0;
        for (number, run) in self.runs.iter().enumerate() {
            if run.pages.is_empty() || run.end() > self.page_count {
                let rule = "a run has a page, and lies in the image";
                return Err(fields.invalid(place(number), rule, run.pages.start.0));
            }
            sum += run.data_pages();
        }
        if sum != u64::from(data_pages) {
            return Err(fields.invalid(at::DATA_PAGES, "the pages with bytes in all runs", sum));
        }
        let mut sorted: Vec<_> = self.runs.iter().collect();
        // Sorted within each segment already, which this sort makes use of.
        sorted.sort_by_key(|run| run.pages.start);
        let twice = sorted.windows(2).find(|pair| match pair {
            [before, after] => before.end() > after.pages.start.0,
            _ => false,
        });
        match twice.and_then(|pair| pair.last()) {
            None => Ok(()),
            Some(run) => Err(fields.invalid(at::RUNS, "a page comes once", run.pages.start.0)),
        }
    }
}

const UNIT_BYTES: u64 = WORKING_SET_UNIT_BYTES as u64;

fn check_counts(
    fields: &Fields<'_>,
    page_count: u64,
    run_count: u32,
    data_pages: u32,
) -> Result<(), DecodeError> {
    let image = (limits::MAX_LEAVES * LEAF_PAGES) as u64;
    let limited = [
        (at::PAGE_COUNT, "pages", page_count, image),
        (
            at::RUN_COUNT,
            "runs",
            run_count.into(),
            limits::MAX_WORKING_SET_RUNS as u64,
        ),
        (
            at::DATA_PAGES,
            "pages",
            data_pages.into(),
            limits::MAX_WORKING_SET_PAGES,
        ),
    ];
    match limited
        .into_iter()
        .find(|(_, _, found, limit)| found > limit)
    {
        None if page_count > 0 => Ok(()),
        None => Err(fields.invalid(at::PAGE_COUNT, "an image has a page", 0)),
        Some((offset, what, found, limit)) => Err(DecodeError::Limit {
            part: PART,
            offset,
            what,
            found,
            limit,
        }),
    }
}

/// The length of an index with so many runs and units, with what fills it up.
const fn encoded_len(runs: usize, units: usize) -> usize {
    (HEADER_BYTES + filled_len(runs, units)).next_multiple_of(DATA_ALIGN_BYTES) - HEADER_BYTES
}

/// The same without what fills it up.
const fn filled_len(runs: usize, units: usize) -> usize {
    WORKING_SET_HEADER_BYTES + runs * WORKING_SET_RUN_BYTES + units * size_of::<Digest>()
}

/// What the offset of the data is a multiple of: devices are read past the page cache by it.
const DATA_ALIGN_BYTES: usize = 4096;
