//! Events that wait for, or are on the way into, an x86-64 vCPU (`struct kvm_vcpu_events`).

use serde::Serialize;

use crate::state::bytes::as_hex_number;

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ExceptionEvent {
    /// It was injected and is not yet delivered.
    pub injected: u8,
    /// Its vector.
    pub vector: u8,
    /// It pushes an error code.
    pub has_error_code: u8,
    /// It waits to be injected.
    pub pending: u8,
    /// The error code.
    pub error_code: u32,
    /// The payload counts.
    pub has_payload: u8,
    /// What goes to CR2 or DR6 on delivery.
    #[serde(serialize_with = "as_hex_number")]
    pub payload: u64,
}

/// An external or software interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct EventInterrupt {
    /// It was injected and is not yet delivered.
    pub injected: u8,
    /// Its vector.
    pub vector: u8,
    /// It came from an instruction.
    pub soft: u8,
    /// The shadow of STI or MOV SS is in force.
    pub shadow: u8,
}

/// A non-maskable interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct EventNmi {
    /// It was injected and is not yet delivered.
    pub injected: u8,
    /// It waits to be injected.
    pub pending: u8,
    /// NMIs are held back.
    pub masked: u8,
}

/// System management mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct EventSmi {
    /// The vCPU is in it.
    pub smm: u8,
    /// An SMI waits.
    pub pending: u8,
    /// It was entered from an NMI handler.
    pub smm_inside_nmi: u8,
    /// An INIT waits until it is left.
    pub latched_init: u8,
}

/// All of them, with the flags that say which parts count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VcpuEvents {
    /// Exception.
    pub exception: ExceptionEvent,
    /// Interrupt.
    pub interrupt: EventInterrupt,
    /// NMI.
    pub nmi: EventNmi,
    /// Start-up vector of a SIPI.
    pub sipi_vector: u32,
    /// `KVM_VCPUEVENT_VALID_*`.
    pub flags: u32,
    /// System management mode.
    pub smi: EventSmi,
    /// A triple fault waits.
    pub triple_fault: u8,
}
