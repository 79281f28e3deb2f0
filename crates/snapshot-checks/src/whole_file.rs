//! Every check of one file, and everything that it says.

use snapshot_format::state::{
    DeviceState, Fingerprint, GicBlob, GicV2, GicV3, VcpuArm64, VcpuX86, VmArm64, VmX86,
};
use snapshot_format::{
    DecodeError, Envelope, FileKind, Header, IndexLeaf, LeafRef, Manifest, MapRoot, OwnerLeaf,
    Part, Placement, SectionKind, SectionPayload, StateFile, WorkingSetIndex,
};

/// A file that passed every check that needs no other file.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum WholeFile {
    /// What a snapshot is.
    Manifest(Header, Box<Manifest>),
    /// Where its bytes lie.
    Placement(Header, Placement),
    /// Machine state.
    State(Header, StateFile),
    /// A page map with all of its leaves.
    MemoryMap(Header, MapRoot, Vec<IndexLeaf>, Vec<OwnerLeaf>),
    /// A working set, whose units all have their digests.
    WorkingSet(Header, WorkingSetIndex),
    /// Any other kind.
    Other(Header, Vec<SectionPayload>),
}

impl WholeFile {
    /// Checks and decodes all of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse(bytes)?;
        let payloads = envelope.payloads()?;
        let header = envelope.header().clone();
        Ok(match header.kind {
            FileKind::Manifest => Self::Manifest(header, Box::new(Manifest::parse(bytes)?)),
            FileKind::Placement => Self::Placement(header, Placement::parse(bytes)?),
            FileKind::State => Self::State(header, parse_state(bytes)?),
            FileKind::MemoryMap => Self::parse_map(header, &envelope, bytes)?,
            FileKind::WorkingSet => Self::WorkingSet(header, WorkingSetIndex::read(bytes)?),
            _ => Self::Other(header, payloads),
        })
    }

    fn parse_map(
        header: Header,
        envelope: &Envelope<'_>,
        bytes: &[u8],
    ) -> Result<Self, DecodeError> {
        let entry = MapRoot::entry(&header, envelope.table())?;
        let root = envelope.section(entry.kind, entry.instance)?;
        let root = MapRoot::parse(&header, envelope.table(), root)?;
        let mut end = 0;
        let index = root.index.refs().iter().map(|place| {
            let leaf = root.index_leaf(place, leaf_bytes(place, bytes)?)?;
            end = root.follow_frames(place, &leaf, end)?;
            Ok(leaf)
        });
        let index = index.collect::<Result<_, DecodeError>>()?;
        root.end_frames(end)?;
        let owners = root.owners.refs().iter();
        let owners = owners.map(|leaf| root.owner_leaf(leaf, leaf_bytes(leaf, bytes)?));
        let owners = owners.collect::<Result<_, DecodeError>>()?;
        Ok(Self::MemoryMap(header, root, index, owners))
    }
}

/// A state file whose sections of known kinds decode.
fn parse_state(bytes: &[u8]) -> Result<StateFile, DecodeError> {
    let mut offers = StateFile::offers(bytes)?;
    offers.take_all::<VcpuX86>()?;
    offers.take_all::<VmX86>()?;
    offers.take_all::<VcpuArm64>()?;
    offers.take_all::<VmArm64>()?;
    offers.take_all::<GicV3>()?;
    offers.take_all::<GicV2>()?;
    offers.take_all::<GicBlob>()?;
    offers.take_all::<DeviceState>()?;
    offers.take_all::<Fingerprint>()?;
    StateFile::parse(bytes)
}

/// The bytes that a table names. The root was checked against the section of leaves, which lies
/// in the file; a leaf that does not is refused all the same.
fn leaf_bytes<'a>(leaf: &LeafRef, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let range = usize::try_from(leaf.offset)
        .ok()
        .zip(usize::try_from(leaf.end()).ok());
    range
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| DecodeError::Length {
            part: Part::Section {
                kind: SectionKind::MAP_LEAVES,
                instance: 0,
            },
            offset: leaf.offset,
            needed: leaf.len.into(),
            found: (bytes.len() as u64).saturating_sub(leaf.offset),
        })
}
