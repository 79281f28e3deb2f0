//! What a restored guest is: the machine that was stopped, or a clone of it.

use hypervisor_bridge::{
    Answer, ClockPolicy, CloneIdentity, GenerationDevice, GenerationEvent, GenerationId,
    NewGeneration, RaiseEvent, Restore,
};
use snapshot_format::GuestAddress;
use snapshot_memory::{MappedMemory, WriteMarker};

use crate::error::GuestError;

/// Where the generation id of a guest lies: a page that its program does not touch.
pub const GENERATION_ADDRESS: GuestAddress = GuestAddress(0x6000);

/// The interrupt that tells a KVM guest of a new generation id. Its program takes none.
pub(crate) const GENERATION_INTERRUPT: u32 = 9;

/// Why a guest is restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Purpose {
    /// To go on.
    Resume(ClockPolicy),
    /// To be another machine.
    Clone {
        /// What its clock does.
        clock: ClockPolicy,
        /// What it finds at [`GENERATION_ADDRESS`].
        generation: GenerationId,
    },
}

/// What a new generation id is written to, and told by.
pub(crate) struct Change<'a> {
    pub(crate) memory: &'a MappedMemory,
    pub(crate) dirty: Answer<&'a WriteMarker>,
    pub(crate) event: Answer<&'a mut dyn RaiseEvent>,
}

impl Purpose {
    /// The restore of a guest, which has no device whose identity would have to change.
    pub(crate) fn restore(self, change: Change<'_>) -> Result<Restore<'_>, GuestError> {
        let (clock, id) = match self {
            Self::Resume(clock) => return Ok(Restore::resume(clock)),
            Self::Clone { clock, generation } => (clock, generation),
        };
        let event = GenerationEvent::Interrupt(GENERATION_INTERRUPT);
        let device = GenerationDevice::new(GENERATION_ADDRESS, event)
            .map_err(|error| GuestError::State(error.into()))?;
        let Change {
            memory,
            dirty,
            event,
        } = change;
        Ok(Restore::clone_of(CloneIdentity {
            clock,
            generation: Answer::By(NewGeneration {
                id,
                device,
                memory,
                dirty,
                event,
            }),
            random: Answer::waive("its program takes its numbers from the port, which was saved"),
            network: Answer::waive("it has no network device"),
            vsock: Answer::waive("it has no vsock device"),
        }))
    }
}
