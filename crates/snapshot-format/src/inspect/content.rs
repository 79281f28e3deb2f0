//! What a whole file says, with everything in it checked.

use serde::Serialize;

use crate::envelope::{Envelope, FileKind, slice};
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotRef};
use crate::layout::MemoryLayout;
use crate::manifest::Manifest;
use crate::page_map::{DataLayout, LeafRef, MapRoot};
use crate::placement::Placement;
use crate::section::{SectionKind, SectionPayload, StatePayload};
use crate::state::{
    DeviceState, Fingerprint, GicBlob, GicV2, GicV3, VcpuArm64, VcpuX86, VmArm64, VmX86,
};
use crate::working_set::{WorkingSetIndex, WorkingSetOrigin};

/// What a file says.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// What a snapshot is.
    Manifest(Box<Manifest>),
    /// Where its bytes lie.
    Placement(Placement),
    /// The sections of machine state that this build knows.
    State(Vec<StateView>),
    /// The root of a memory map.
    MemoryMap(MapView),
    /// What a working set holds, without its runs.
    WorkingSet(WorkingSetView),
    /// Nothing that this crate understands.
    Other,
}

/// A section of machine state.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StateView {
    /// An x86-64 vCPU.
    #[serde(rename = "vcpu_x86_64")]
    VcpuX86(Box<VcpuX86>),
    /// What an x86-64 machine has once.
    #[serde(rename = "vm_x86_64")]
    VmX86(Box<VmX86>),
    /// An aarch64 vCPU.
    #[serde(rename = "vcpu_aarch64")]
    VcpuArm64(Box<VcpuArm64>),
    /// What an aarch64 machine has once.
    #[serde(rename = "vm_aarch64")]
    VmArm64(VmArm64),
    /// A GICv3, by register.
    #[serde(rename = "gic")]
    GicV3(Box<GicV3>),
    /// A GICv2, by register.
    #[serde(rename = "gic_v2")]
    GicV2(Box<GicV2>),
    /// An interrupt controller as bytes of its hypervisor.
    GicBlob(GicBlob),
    /// A device.
    Device(DeviceState),
    /// What a host must have.
    Fingerprint(Box<Fingerprint>),
}

/// The root of a memory map, without its tables.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MapView {
    /// The parent of the snapshot.
    pub parent: Option<SnapshotRef>,
    /// Which guest physical addresses are memory.
    pub layout: MemoryLayout,
    /// How present pages lie in the data file.
    pub data_layout: DataLayout,
    /// Pages in one digest unit.
    pub unit_pages: u16,
    /// The length of the data file in bytes.
    pub data_len_bytes: u64,
    /// The place of the data file in the list of dependencies, counted from 1.
    pub file: u16,
    /// How many leaves the data file has pages of.
    pub index_leaves: usize,
    /// How many leaves of the flattened map are new.
    pub owner_leaves: usize,
    /// Pages in the data file.
    pub present_pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
}

/// A working set, without its runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WorkingSetView {
    /// BLAKE3 of the manifest of the snapshot.
    pub manifest: Digest,
    /// How the pages became known.
    pub origin: WorkingSetOrigin,
    /// Pages of the image.
    pub page_count: u64,
    /// How many runs of pages there are.
    pub runs: usize,
    /// Pages of which the file holds the bytes.
    pub data_pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
}

impl Content {
    /// Checks a whole file, of whatever kind, with all that it holds: every digest, every payload
    /// that this build knows, every leaf.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse(bytes)?;
        let sections = envelope.payloads()?;
        Ok(match envelope.header().kind {
            FileKind::Manifest => Self::Manifest(Box::new(Manifest::parse(bytes)?)),
            FileKind::Placement => Self::Placement(Placement::parse(bytes)?),
            FileKind::MemoryMap => Self::MemoryMap(read_map(&envelope, bytes)?),
            FileKind::State => {
                let views = sections.iter().filter_map(|section| {
                    let entry = envelope.table().get(section.kind, section.instance);
                    let at = entry.map_or(0, |entry| entry.offset);
                    StateView::of(section).map(|view| view.map_err(|error| error.shifted(at)))
                });
                Self::State(views.collect::<Result<_, _>>()?)
            }
            FileKind::WorkingSet => {
                Self::WorkingSet(WorkingSetView::of(&WorkingSetIndex::read(bytes)?))
            }
            _ => Self::Other,
        })
    }
}

impl WorkingSetView {
    /// What `index` says.
    #[must_use]
    pub fn of(index: &WorkingSetIndex) -> Self {
        Self {
            manifest: index.manifest,
            origin: index.origin,
            page_count: index.page_count,
            runs: index.runs.len(),
            data_pages: index.data_pages(),
            zero_pages: index.zero_pages(),
        }
    }
}

impl StateView {
    /// What a section of machine state says; `None` for a kind that this build does not know.
    #[must_use]
    pub fn of(section: &SectionPayload) -> Option<Result<Self, DecodeError>> {
        fn boxed<T: StatePayload>(section: &SectionPayload) -> Result<Box<T>, DecodeError> {
            section.value().map(Box::new)
        }
        Some(match section.kind {
            SectionKind::VCPU_X86_64 => boxed(section).map(StateView::VcpuX86),
            SectionKind::VM_X86_64 => boxed(section).map(StateView::VmX86),
            SectionKind::VCPU_AARCH64 => boxed(section).map(StateView::VcpuArm64),
            SectionKind::VM_AARCH64 => section.value().map(StateView::VmArm64),
            SectionKind::GIC => boxed(section).map(StateView::GicV3),
            SectionKind::GIC_V2 => boxed(section).map(StateView::GicV2),
            SectionKind::GIC_BLOB => section.value().map(StateView::GicBlob),
            SectionKind::DEVICE => section.value().map(StateView::Device),
            SectionKind::FINGERPRINT => boxed(section).map(StateView::Fingerprint),
            _ => return None,
        })
    }
}

fn read_map(envelope: &Envelope<'_>, bytes: &[u8]) -> Result<MapView, DecodeError> {
    let (header, table) = (envelope.header(), envelope.table());
    let entry = MapRoot::entry(header, table)?;
    let root = envelope.section(entry.kind, entry.instance)?;
    let root = MapRoot::parse(header, table, root)?;
    let mut view = MapView {
        parent: root.parent,
        layout: root.layout.clone(),
        data_layout: root.data_layout,
        unit_pages: root.unit_pages,
        data_len_bytes: root.data_len_bytes,
        file: root.file,
        index_leaves: root.index.len(),
        owner_leaves: root.owners.len(),
        present_pages: 0,
        zero_pages: 0,
    };
    let mut end = 0;
    for leaf in root.index.refs() {
        let parsed = root.index_leaf(leaf, leaf_bytes(bytes, leaf)?)?;
        end = root.follow_frames(leaf, &parsed, end)?;
        view.present_pages += parsed.present().count() as u64;
        view.zero_pages += parsed.zero().count() as u64;
    }
    let at_root = |error: DecodeError| error.shifted(entry.offset);
    root.end_frames(end).map_err(at_root)?;
    for leaf in root.owners.refs() {
        root.owner_leaf(leaf, leaf_bytes(bytes, leaf)?)?;
    }
    Ok(view)
}

fn leaf_bytes<'a>(bytes: &'a [u8], leaf: &LeafRef) -> Result<&'a [u8], DecodeError> {
    slice(bytes, leaf.offset, leaf.len.into()).ok_or_else(|| DecodeError::Length {
        part: Part::LeafTable,
        offset: leaf.offset,
        needed: leaf.len.into(),
        found: (bytes.len() as u64).saturating_sub(leaf.offset),
    })
}
