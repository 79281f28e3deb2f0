//! The devices of a machine, and how far its guest is.

use std::io;

use kvm_ioctls::VcpuExit;
use snapshot_format::state::DeviceState;

use super::lane::{self, Lane};
use crate::config::GuestConfig;
use crate::device::{self, PortDevice};
use crate::error::GuestError;
use crate::program::{PORT_ANSWER, PORT_DONE, PORT_PROGRESS};
use crate::proof::Program;

/// Port of the bytes of a vCPU's lane, one at a time.
pub(super) const PORT_STREAM: u16 = 0x520;
/// Port that a vCPU writes the number of repeated timer interrupts to.
pub(super) const PORT_REPEATED: u16 = 0x51c;
/// Two pages of device memory: a read that crosses from one to the other takes two exits.
pub(super) const DEVICE_MEMORY: std::ops::Range<u64> = 0x2000_0000..0x2000_2000;

/// Everything that answers the guest.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) port: PortDevice,
    /// One for each vCPU of a proof guest; none for the pattern.
    lanes: Vec<Lane>,
    finisher_count: usize,
    /// Exits handled since the machine was made.
    pub(super) exits: u64,
}

impl Board {
    pub(super) fn new(config: &GuestConfig) -> Self {
        let lanes = match config.program {
            Program::Pattern => 0,
            proof => proof.vcpu_count() as u64,
        };
        Self {
            port: PortDevice::new(config.seed),
            lanes: (0..lanes)
                .map(|vcpu| Lane::new(config.seed, vcpu))
                .collect(),
            finisher_count: config.program.finisher_count(),
            exits: 0,
        }
    }

    /// Answers one exit of `vcpu`.
    pub(super) fn handle(&mut self, vcpu: usize, exit: VcpuExit<'_>) -> io::Result<()> {
        self.exits += 1;
        let port = &mut self.port;
        match (exit, self.lanes.get_mut(vcpu)) {
            (VcpuExit::IoOut(PORT_PROGRESS, &[a, b, c, d]), _) => {
                port.steps = u32::from_le_bytes([a, b, c, d]).into();
            }
            (VcpuExit::IoIn(PORT_ANSWER, data), None) if data.len() == 4 => {
                data.copy_from_slice(&port.answer().to_le_bytes());
            }
            (VcpuExit::IoOut(PORT_DONE, &[a, b, c, d]), None) => {
                port.checksum = Some(u32::from_le_bytes([a, b, c, d]));
            }
            (VcpuExit::IoIn(PORT_ANSWER | PORT_STREAM, data), Some(lane)) => lane.read(data),
            (VcpuExit::IoOut(PORT_STREAM, data), Some(lane)) => lane.write(data),
            (VcpuExit::IoOut(PORT_REPEATED, &[a, b, c, d]), Some(lane)) => {
                lane.repeated = u32::from_le_bytes([a, b, c, d]);
            }
            (VcpuExit::IoOut(PORT_DONE, &[a, b, c, d]), Some(lane)) => {
                lane.checksum = Some(u32::from_le_bytes([a, b, c, d]));
            }
            (VcpuExit::MmioRead(address, data), Some(lane)) if DEVICE_MEMORY.contains(&address) => {
                lane.read(data);
            }
            (VcpuExit::MmioWrite(address, data), Some(lane))
                if DEVICE_MEMORY.contains(&address) =>
            {
                lane.write(data);
            }
            (other, _) => return Err(io::Error::other(format!("unexpected exit {other:?}"))),
        }
        Ok(())
    }

    /// Whether `vcpu` is to be let alone: it has said its last.
    pub(super) fn is_done(&self, vcpu: usize) -> bool {
        let lane = self.lanes.get(vcpu);
        lane.map_or(self.port.checksum, |lane| lane.checksum)
            .is_some()
    }

    /// Whether every vCPU that has something to say at the end has said it.
    pub(super) fn has_ended(&self) -> bool {
        (0..self.finisher_count).all(|vcpu| self.is_done(vcpu))
    }

    /// The checksum of all at the end.
    pub(super) fn checksum(&self) -> u32 {
        let folded = self.lanes.iter().fold(0, |sum: u64, lane| {
            sum.rotate_left(7).wrapping_add(lane.sum())
        });
        let [a, b, c, d, ..] = folded.to_le_bytes();
        self.port
            .checksum
            .unwrap_or_else(|| u32::from_le_bytes([a, b, c, d]))
    }

    /// Timer interrupts that came once more, as counted by the guest: the most of any vCPU.
    pub(super) fn repeated(&self) -> u32 {
        let counts = self.lanes.iter().map(|lane| lane.repeated);
        counts.max().unwrap_or_default()
    }

    /// The state of every device.
    pub(super) fn save(&self) -> Vec<DeviceState> {
        let lanes = (0..).zip(&self.lanes).map(|(vcpu, lane)| lane.save(vcpu));
        std::iter::once(self.port.save()).chain(lanes).collect()
    }

    /// Puts every device where a snapshot left it.
    pub(super) fn restore(&mut self, saved: &[DeviceState]) -> Result<(), GuestError> {
        let Some((port, lanes)) = saved.split_first() else {
            let wanted = device::KIND;
            return Err(GuestError::ForeignState { wanted });
        };
        if lanes.len() != self.lanes.len() {
            let wanted = lane::KIND;
            return Err(GuestError::ForeignState { wanted });
        }
        let restored = (0..)
            .zip(lanes)
            .map(|(vcpu, saved)| Lane::restore(saved, vcpu));
        self.lanes = restored.collect::<Result<_, _>>()?;
        self.port = PortDevice::restore(port)?;
        Ok(())
    }
}
