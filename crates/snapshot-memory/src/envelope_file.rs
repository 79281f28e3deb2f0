//! An envelope that is read in parts.

use snapshot_format::envelope::{HEADER_BYTES, envelope_digest};
use snapshot_format::{
    DecodeError, Digest, FileKind, Header, SectionEntry, SectionKind, SectionTable, limits,
};

use crate::backend::ReadFile;
use crate::image::ImageError;

/// An envelope that is too large to be held: its header and its section table are read and checked
/// when it is opened, its sections when they are wanted.
#[derive(Debug)]
pub struct EnvelopeFile {
    file: Box<dyn ReadFile>,
    name: String,
    frame: Frame,
}

/// Header and section table of an envelope, checked.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) table: SectionTable,
    /// BLAKE3 of both.
    pub(crate) digest: Digest,
}

impl EnvelopeFile {
    /// Opens an envelope of a kind of file; `name` stands for it in errors.
    pub fn open(file: Box<dyn ReadFile>, name: String, kind: FileKind) -> Result<Self, ImageError> {
        let frame = Frame::read(&*file, &name)?;
        let expected = frame.header.expect_kind(kind);
        expected.map_err(|source| damaged(&name, source))?;
        Ok(Self { file, name, frame })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &dyn ReadFile {
        &*self.file
    }

    /// What it is called in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.frame.header
    }

    /// Which sections there are.
    #[must_use]
    pub fn table(&self) -> &SectionTable {
        &self.frame.table
    }

    /// BLAKE3 of header and section table, which hold the digests of all sections: with it, the
    /// whole file is named.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.frame.digest
    }

    /// The bytes of a section of at most 16 MiB, checked.
    pub fn section(&self, kind: SectionKind, instance: u32) -> Result<Vec<u8>, ImageError> {
        let entry = self.frame.table.get(kind, instance);
        let entry = entry.map_err(|source| damaged(&self.name, source))?;
        if entry.stored_len > limits::MAX_SECTION_BYTES {
            let source = DecodeError::Limit {
                part: entry.part(),
                offset: entry.offset,
                what: "bytes of a section that is read whole",
                found: entry.stored_len,
                limit: limits::MAX_SECTION_BYTES,
            };
            return Err(damaged(&self.name, source));
        }
        let bytes = read(&*self.file, &self.name, entry.offset, entry.stored_len)?;
        let verified = entry.verify(&bytes);
        verified.map_err(|source| damaged(&self.name, source))?;
        Ok(bytes)
    }

    /// Compares every section with its digest, and the bytes between them with zero; `checked`
    /// counts the bytes.
    pub fn check(&self, checked: &mut u64) -> Result<(), ImageError> {
        check_sections(&*self.file, &self.name, &self.frame.table, checked)
    }
}

impl Frame {
    pub(crate) fn read(file: &dyn ReadFile, name: &str) -> Result<Self, ImageError> {
        let file_len = file.len().map_err(ImageError::file_at("measure", name))?;
        let head = read(file, name, 0, file_len.min(HEADER_BYTES as u64))?;
        let header = Header::parse(&head, file_len).map_err(|source| damaged(name, source))?;
        // The header bounds the number of sections, and so this length.
        let table_bytes = read(file, name, header.table_offset, header.table_len.into())?;
        let table = SectionTable::parse(&table_bytes, &header);
        let table = table.map_err(|source| damaged(name, source))?;
        let digest = envelope_digest(&header.encode(), &table_bytes);
        Ok(Self {
            header,
            table,
            digest,
        })
    }
}

/// Reads bytes whose length is bounded by what was checked.
pub(crate) fn read(
    file: &dyn ReadFile,
    name: &str,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, ImageError> {
    let len = usize::try_from(len).map_err(|_| std::io::ErrorKind::InvalidData);
    let len = len.map_err(|kind| ImageError::file_at("read", name)(kind.into()))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(offset, &mut bytes)
        .map_err(ImageError::file_at("read", name))?;
    Ok(bytes)
}

/// Compares every section with its digest, and the padding behind it with zero.
pub(crate) fn check_sections(
    file: &dyn ReadFile,
    name: &str,
    table: &SectionTable,
    checked: &mut u64,
) -> Result<(), ImageError> {
    let mut buffer = vec![0; 1 << 20];
    for entry in table.entries() {
        check_section(file, name, entry, &mut buffer)?;
        *checked += entry.stored_len;
    }
    Ok(())
}

fn check_section(
    file: &dyn ReadFile,
    name: &str,
    entry: &SectionEntry,
    buffer: &mut [u8],
) -> Result<(), ImageError> {
    let mut hasher = blake3::Hasher::new();
    let mut at = entry.offset;
    while at < entry.end() {
        let len = (entry.end() - at).min(buffer.len() as u64);
        let (bytes, _) = buffer.split_at_mut(usize::try_from(len).unwrap_or(0));
        file.read_exact_at(at, bytes)
            .map_err(ImageError::file_at("read", name))?;
        hasher.update(bytes);
        at += len;
    }
    let computed = Digest(*hasher.finalize().as_bytes());
    if computed != entry.digest {
        let source = DecodeError::Digest {
            part: entry.part(),
            offset: entry.offset,
            stored: entry.digest,
            computed,
        };
        return Err(damaged(name, source));
    }
    let padding_len = entry.end().next_multiple_of(8) - entry.end();
    let (padding, _) = buffer.split_at_mut(usize::try_from(padding_len).unwrap_or(0));
    file.read_exact_at(entry.end(), padding)
        .map_err(ImageError::file_at("read", name))?;
    match (entry.end()..).zip(&*padding).find(|(_, b)| **b != 0) {
        None => Ok(()),
        Some((offset, found)) => {
            let source = DecodeError::Invalid {
                part: entry.part(),
                offset,
                rule: "padding is zero",
                found: u64::from(*found),
            };
            Err(damaged(name, source))
        }
    }
}

fn damaged(name: &str, source: DecodeError) -> ImageError {
    ImageError::Map {
        file: name.to_owned(),
        source,
    }
}
