//! Stopping and resuming the vCPUs of a crew.

// UNSAFETY: the promise of a machine whose vCPU threads all wait.
#![expect(unsafe_code, reason = "makes the token of a machine that stands still")]

use std::sync::Arc;
use std::time::Duration;

use hypervisor_bridge::{Paused, StepError, VcpuStop};

use crate::crew::Crew;
use crate::error::HvfError;
use crate::hv::Register;

/// The vCPUs of a crew, to be stopped for a snapshot.
#[derive(Clone, Debug)]
pub struct HvfVcpus {
    crew: Arc<Crew>,
    timeout: Duration,
}

impl HvfVcpus {
    /// vCPUs that have `timeout` to come.
    #[must_use]
    pub fn new(crew: Arc<Crew>, timeout: Duration) -> Self {
        Self { crew, timeout }
    }

    fn gather(&self) -> Result<(), HvfError> {
        let crew = &self.crew;
        let mut refused = None;
        let gathered = crew.meeting().gather(self.timeout, &mut |vcpu| {
            // Out of the guest, and out of a wait for an interrupt or for `CPU_ON`, in which
            // `hv_vcpus_exit` does not find it.
            if let Err(refusal) = crew.kick(vcpu) {
                refused = Some(refusal);
            }
        });
        if let (Err(late), Some(refusal)) = (&gathered, refused) {
            tracing::warn!(%late, %refusal, "vCPUs could not be told to stop");
        }
        gathered?;
        for vcpu in 0..crew.vcpu_count() {
            // The framework answers the owner of a vCPU only: whoever waits in its place is it,
            // and so the vCPU does not run.
            let hv = crew.hv().clone();
            let handle = crew.handle(vcpu);
            let count = crew.vcpu_count();
            let handle = handle.ok_or(HvfError::NoSuchVcpu { vcpu, count })?;
            let read = move || hv.register(handle, Register::PC);
            let answered = crew.meeting().run_on(vcpu, read)?;
            answered.map_err(|source| HvfError::Vcpu {
                vcpu,
                what: "answer on its own thread".to_owned(),
                source,
            })?;
        }
        Ok(())
    }
}

impl VcpuStop for HvfVcpus {
    fn stop(&mut self) -> Result<Paused, StepError> {
        self.gather()?;
        // SAFETY: the thread of every vCPU is at the rendezvous, where it stays until `resume`, and
        // no other thread can run its vCPU. It came there between two runs, the last of which was
        // answered.
        Ok(unsafe { Paused::promise() })
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.crew.meeting().release();
        Ok(())
    }
}
