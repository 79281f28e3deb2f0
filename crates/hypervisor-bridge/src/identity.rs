//! What a clone must have of its own, and what was done about it.

use std::borrow::Cow;
use std::fmt;

use snapshot_format::{GuestAddress, PAGE_BYTES, PageIndex};
use snapshot_memory::{GuestMemorySource, MappedMemory, WriteMarker};

use crate::clock::ClockPolicy;
use crate::error::StepError;
use crate::generation::{GENERATION_ID_BYTES, GenerationDevice, GenerationEvent, GenerationId};

/// An answer to an item of the checklist: done by something, or left out for a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer<T> {
    /// This does it.
    By(T),
    /// It is left out on purpose; the text says why, and stands in the outcome.
    Waived(Cow<'static, str>),
}

impl<T> Answer<T> {
    /// Leaves the item out, because of what `why` says: `no network device`.
    pub fn waive(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Waived(why.into())
    }
}

/// Every question that a clone raises, each of which must be answered.
///
/// There is no default and there will be none: a question that is added later fails to compile
/// until it is answered.
///
/// ```
/// use hypervisor_bridge::{Answer, CloneIdentity, ClockPolicy, Restore};
///
/// let restore = Restore::clone_of(CloneIdentity {
///     clock: ClockPolicy::Frozen,
///     generation: Answer::waive("the guest was booted without the device"),
///     random: Answer::waive("no random number device; the guest reseeds by itself"),
///     network: Answer::waive("no network device"),
///     vsock: Answer::waive("no vsock device"),
/// });
/// # drop(restore);
/// ```
///
/// A question that is not answered does not compile:
///
/// ```compile_fail,E0063
/// use hypervisor_bridge::{Answer, CloneIdentity, ClockPolicy, Restore};
///
/// let restore = Restore::clone_of(CloneIdentity {
///     clock: ClockPolicy::Frozen,
///     generation: Answer::waive("the guest was booted without the device"),
///     random: Answer::waive("no random number device; the guest reseeds by itself"),
///     network: Answer::waive("no network device"),
/// });
/// ```
#[expect(missing_debug_implementations, reason = "the hooks are the caller's")]
pub struct CloneIdentity<'h> {
    /// What the guest's clock does with the time that has passed.
    pub clock: ClockPolicy,
    /// The VM generation id, by which a guest knows that it was cloned.
    pub generation: Answer<NewGeneration<'h>>,
    /// Random numbers: what feeds the guest, virtio-rng for one, must not repeat what the original
    /// is given, and a seed that it holds in memory is replaced.
    pub random: Answer<&'h mut dyn CloneHook>,
    /// Hardware addresses, and the interface of the host behind each.
    pub network: Answer<&'h mut dyn CloneHook>,
    /// The context id of a vsock device; the guest is told by a transport reset event.
    pub vsock: Answer<&'h mut dyn CloneHook>,
}

/// A new generation id for a clone.
#[expect(missing_debug_implementations, reason = "the parts are the caller's")]
pub struct NewGeneration<'h> {
    /// The id, which no other machine has had.
    pub id: GenerationId,
    /// Where the guest looks for it, and what makes it look.
    pub device: GenerationDevice,
    /// The clone's memory.
    pub memory: &'h dyn PatchMemory,
    /// Who is told that the page was written: the next diff must have it. A dirty source that
    /// sees the VMM's own writes is a reason to waive this.
    pub dirty: Answer<&'h WriteMarker>,
    /// Who raises the event of the device.
    pub event: Answer<&'h mut dyn RaiseEvent>,
}

/// Gives one part of a clone its own identity.
pub trait CloneHook: Send {
    /// Changes it, and says what it is now: `mac 02:00:00:00:00:07`. All state is in place, no vCPU
    /// runs. Nothing is told to the guest yet.
    fn change(&mut self) -> Result<String, StepError>;

    /// Tells the guest, by an interrupt for one. All items were changed, no vCPU runs.
    fn announce(&mut self) -> Result<(), StepError>;
}

/// Raises the event of a generation device.
pub trait RaiseEvent: Send {
    /// Does so. All interrupt controllers are in place.
    fn raise(&mut self, event: GenerationEvent) -> Result<(), StepError>;
}

/// Guest memory in which single bytes are read and written, while no vCPU runs.
pub trait PatchMemory: Send + Sync {
    /// Copies what is at `start` to `out`.
    fn read(&self, start: GuestAddress, out: &mut [u8]) -> Result<(), StepError>;

    /// Copies `bytes` to `start`.
    fn write(&self, start: GuestAddress, bytes: &[u8]) -> Result<(), StepError>;
}

/// The bytes must lie in one page.
impl PatchMemory for MappedMemory {
    fn read(&self, start: GuestAddress, out: &mut [u8]) -> Result<(), StepError> {
        Ok(Self::read(
            self,
            image_offset(self, start, out.len())?,
            out,
        )?)
    }

    fn write(&self, start: GuestAddress, bytes: &[u8]) -> Result<(), StepError> {
        let at = image_offset(self, start, bytes.len())?;
        Ok(Self::write(self, at, bytes)?)
    }
}

fn image_offset(memory: &MappedMemory, start: GuestAddress, len: usize) -> Result<u64, StepError> {
    let inside = start.0 % PAGE_BYTES;
    let fits = inside
        .checked_add(len as u64)
        .is_some_and(|end| end <= PAGE_BYTES);
    let page = memory.layout().image_page(start.page()).filter(|_| fits);
    let offset = page.and_then(PageIndex::image_offset);
    offset
        .map(|offset| offset + inside)
        .ok_or_else(|| format!("{len} bytes at {start} are not in one page of memory").into())
}

/// An item of the checklist of a clone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CloneItem {
    /// The VM generation id.
    Generation,
    /// That the page of the generation id is in the next diff.
    DirtyPage,
    /// The event that makes the guest look at its generation id.
    Event,
    /// Random numbers.
    Random,
    /// The network.
    Network,
    /// The vsock device.
    Vsock,
}

impl fmt::Display for CloneItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generation => "generation id",
            Self::DirtyPage => "dirty page",
            Self::Event => "generation event",
            Self::Random => "random numbers",
            Self::Network => "network",
            Self::Vsock => "vsock",
        })
    }
}

/// What was done about one item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloneEntry {
    /// Which.
    pub item: CloneItem,
    /// What it is now, or why it was left out.
    pub done: Answer<String>,
}

/// An item that failed.
pub(crate) type Failed = (CloneItem, StepError);

impl<'h> CloneIdentity<'h> {
    /// Gives the clone everything that it has of its own. All state is in place, no vCPU runs.
    pub(crate) fn change(&mut self) -> Result<Vec<CloneEntry>, Failed> {
        let mut entries = match &mut self.generation {
            Answer::By(generation) => generation.change()?,
            Answer::Waived(why) => vec![waived(CloneItem::Generation, why)],
        };
        for (item, hook) in self.hooks() {
            entries.push(match hook {
                Answer::By(hook) => done(item, hook.change().map_err(|error| (item, error))?),
                Answer::Waived(why) => waived(item, why),
            });
        }
        Ok(entries)
    }

    /// Tells the guest. The generation id comes first: random numbers are new before anything
    /// else in the guest reacts.
    pub(crate) fn announce(&mut self) -> Result<(), Failed> {
        if let Answer::By(generation) = &mut self.generation {
            generation.announce()?;
        }
        for (item, hook) in self.hooks() {
            if let Answer::By(hook) = hook {
                hook.announce().map_err(|error| (item, error))?;
            }
        }
        Ok(())
    }

    fn hooks(&mut self) -> [(CloneItem, &mut Answer<&'h mut dyn CloneHook>); 3] {
        [
            (CloneItem::Random, &mut self.random),
            (CloneItem::Network, &mut self.network),
            (CloneItem::Vsock, &mut self.vsock),
        ]
    }
}

impl NewGeneration<'_> {
    fn change(&mut self) -> Result<Vec<CloneEntry>, Failed> {
        self.write()
            .map_err(|error| (CloneItem::Generation, error))?;
        let address = self.device.address();
        let dirty = match &self.dirty {
            // After the write, so that no harvest in between loses the page.
            Answer::By(marker) => {
                marker.mark_bytes(address, GENERATION_ID_BYTES);
                done(CloneItem::DirtyPage, format!("marked at {address}"))
            }
            Answer::Waived(why) => waived(CloneItem::DirtyPage, why),
        };
        let event = match &self.event {
            Answer::By(_) => done(CloneItem::Event, self.device.event().to_string()),
            Answer::Waived(why) => waived(CloneItem::Event, why),
        };
        let id = done(CloneItem::Generation, self.id.to_string());
        Ok(vec![id, dirty, event])
    }

    fn write(&self) -> Result<(), StepError> {
        let address = self.device.address();
        let mut old = [0; 16];
        self.memory.read(address, &mut old)?;
        if old == self.id.0 {
            // The guest would compare, and take itself for the original.
            return Err(format!("{} is the generation id that the guest has", self.id).into());
        }
        self.memory.write(address, &self.id.0)
    }

    fn announce(&mut self) -> Result<(), Failed> {
        let event = self.device.event();
        match &mut self.event {
            Answer::By(raise) => raise
                .raise(event)
                .map_err(|error| (CloneItem::Event, error)),
            Answer::Waived(_) => Ok(()),
        }
    }
}

fn done(item: CloneItem, now: String) -> CloneEntry {
    let done = Answer::By(now);
    CloneEntry { item, done }
}

fn waived(item: CloneItem, why: &str) -> CloneEntry {
    let done = Answer::waive(why.to_owned());
    CloneEntry { item, done }
}
