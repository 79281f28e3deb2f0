//! Which files are covered, and the digest of every shard.

use crate::bytes::Fields;
use crate::envelope::FileKind;
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId};
use crate::limits::{MAX_FILES, MAX_PARITY_GROUP, MAX_PARITY_SHARD_BYTES, MAX_PARITY_SHARDS};
use crate::parity::ParityHead;

/// Bytes of one file's fixed part.
const ENTRY_BYTES: usize = 64;

/// What one parity file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParityTable {
    /// Whose files.
    pub id: SnapshotId,
    /// Every file that is covered, in the order of their recovery shards.
    pub files: Vec<ParityFile>,
}

/// One file that is covered.
///
/// It is cut into shards of equal length, the last one filled up with zeros. Those that are all zero
/// take no part; of the others, number `n` belongs to group `n` modulo the number of groups, so that
/// damage in one place hits many groups a little. Each group has the same number of recovery shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParityFile {
    /// What it is.
    pub kind: FileKind,
    /// Its number among those of its kind.
    pub index: u32,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// The digest of all its bytes.
    pub digest: Digest,
    /// Bytes of a shard: a multiple of 64.
    pub shard_bytes: u32,
    /// Shards of a group at most.
    pub group: u16,
    /// Recovery shards of each group.
    pub recovery_of_group: u16,
    /// The digest of every shard; nil where all of it is zero.
    pub shards: Vec<Digest>,
    /// The digest of every recovery shard: number `n` is of group `n` modulo the number of groups.
    pub recovery: Vec<Digest>,
}

impl ParityFile {
    /// What stands for the digest of a shard that is all zero.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The shards that take part, ascending.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        let shards = self.shards.iter().enumerate();
        let members = shards.filter(|(_, digest)| **digest != Self::ZERO);
        members.map(|(number, _)| number).collect()
    }

    /// How many groups so many members make.
    #[must_use]
    pub fn groups(&self, members: usize) -> usize {
        members.div_ceil(usize::from(self.group.max(1)))
    }

    /// Shards of the file.
    fn shard_count(&self) -> u64 {
        self.len_bytes.div_ceil(u64::from(self.shard_bytes.max(1)))
    }

    /// Bytes of its recovery shards.
    #[must_use]
    pub fn recovery_bytes(&self) -> u64 {
        self.recovery.len() as u64 * u64::from(self.shard_bytes)
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.kind.number().to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.index.to_le_bytes());
        bytes.extend(self.len_bytes.to_le_bytes());
        bytes.extend(self.shard_bytes.to_le_bytes());
        bytes.extend(self.group.to_le_bytes());
        bytes.extend(self.recovery_of_group.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.digest.0);
        let digests = self.shards.iter().chain(&self.recovery);
        digests.for_each(|digest| bytes.extend(digest.0));
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let at = fields.offset();
        let number = fields.u16()?;
        let kind = FileKind::from_number(number).filter(|kind| *kind != FileKind::Store);
        let kind = kind.ok_or_else(|| invalid(at, "a file of a snapshot", number.into()))?;
        fields.reserved::<2>()?;
        let mut file = Self {
            kind,
            index: fields.u32()?,
            len_bytes: fields.u64()?,
            shard_bytes: fields.u32()?,
            group: fields.u16()?,
            recovery_of_group: fields.u16()?,
            digest: Self::ZERO,
            shards: Vec::new(),
            recovery: Vec::new(),
        };
        let is_shard = file.shard_bytes.is_multiple_of(64)
            && (64..=MAX_PARITY_SHARD_BYTES).contains(&file.shard_bytes);
        if !is_shard {
            let rule = "a shard is a multiple of 64 bytes, of at most 1 MiB";
            return Err(invalid(at + 16, rule, file.shard_bytes.into()));
        }
        for (offset, count) in [(20, file.group), (22, file.recovery_of_group)] {
            if !(1..=MAX_PARITY_GROUP).contains(&count) {
                let rule = "a group has 1 to 128 shards, and as many recovery shards";
                return Err(invalid(at + offset, rule, count.into()));
            }
        }
        fields.reserved::<8>()?;
        file.digest = Digest(fields.array()?);
        let count = file.shard_count();
        let limit = MAX_PARITY_SHARDS as u64;
        let count = usize::try_from(count).ok().filter(|_| count <= limit);
        let count = count.ok_or_else(|| DecodeError::Limit {
            part: Part::File,
            offset: at + 8,
            what: "shards",
            found: file.shard_count(),
            limit,
        })?;
        file.shards = digests(fields, count)?;
        let groups = file.groups(file.members().len());
        file.recovery = digests(fields, groups * usize::from(file.recovery_of_group))?;
        Ok(file)
    }
}

/// So many digests, which must be there before room is made for them.
fn digests(fields: &mut Fields<'_>, count: usize) -> Result<Vec<Digest>, DecodeError> {
    let bytes = fields.take(count.saturating_mul(32))?;
    let chunks = bytes.chunks_exact(32);
    let digests = chunks.map(|chunk| Digest(chunk.first_chunk().copied().unwrap_or_default()));
    Ok(digests.collect())
}

impl ParityTable {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let digests = self.files.iter();
        let digests: usize = digests.map(|f| f.shards.len() + f.recovery.len()).sum();
        let mut bytes = Vec::with_capacity(8 + self.files.len() * ENTRY_BYTES + digests * 32);
        bytes.extend(count.to_le_bytes());
        bytes.extend([0; 4]);
        self.files.iter().for_each(|file| file.encode(&mut bytes));
        bytes
    }

    /// The head of the file that these bytes of the table are in.
    #[must_use]
    pub fn head(&self, encoded: &[u8]) -> ParityHead {
        ParityHead {
            id: self.id,
            table_len: encoded.len() as u64,
            area_len: self.files.iter().map(ParityFile::recovery_bytes).sum(),
            table: Digest::of(encoded),
        }
    }

    /// Reads the table that `head` names. The digest is looked at first.
    pub fn parse(head: &ParityHead, bytes: &[u8]) -> Result<Self, DecodeError> {
        head.table
            .check(bytes)
            .map_err(|computed| DecodeError::Digest {
                part: Part::File,
                offset: 0,
                stored: head.table,
                computed,
            })?;
        let mut fields = Fields::new(bytes, Part::File);
        let count = fields.u32()?;
        let limit = MAX_FILES as u64;
        if u64::from(count) > limit {
            return Err(DecodeError::Limit {
                part: Part::File,
                offset: 0,
                what: "files",
                found: count.into(),
                limit,
            });
        }
        fields.reserved::<4>()?;
        let files: Result<Vec<ParityFile>, _> = (0..count)
            .map(|_| ParityFile::decode(&mut fields))
            .collect();
        let table = Self {
            id: head.id,
            files: files?,
        };
        let ascend = table
            .files
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if (a.kind, a.index) < (b.kind, b.index)));
        if !ascend {
            return Err(invalid(
                0,
                "files by kind and number, each once",
                count.into(),
            ));
        }
        if !fields.is_empty() {
            let rule = "the table ends with its last file";
            return Err(invalid(fields.offset(), rule, head.table_len));
        }
        let area: u64 = table.files.iter().map(ParityFile::recovery_bytes).sum();
        if area != head.area_len {
            let rule = "the recovery shards of all files, as long as the head says";
            return Err(invalid(0, rule, head.area_len));
        }
        Ok(table)
    }

    /// A file that is covered, and where its recovery shards begin among those of all.
    #[must_use]
    pub fn file(&self, kind: FileKind, index: u32) -> Option<(&ParityFile, u64)> {
        let at = self
            .files
            .iter()
            .position(|f| (f.kind, f.index) == (kind, index))?;
        let (before, rest) = self.files.split_at(at);
        let offset = before.iter().map(ParityFile::recovery_bytes).sum();
        rest.first().map(|file| (file, offset))
    }
}

fn invalid(offset: u64, rule: &'static str, found: u64) -> DecodeError {
    DecodeError::Invalid {
        part: Part::File,
        offset,
        rule,
        found,
    }
}
