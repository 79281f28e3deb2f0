//! What a vCPU of a proof guest talks to: a device of its own, so that no answer depends on which
//! vCPU asked first.

use snapshot_format::state::DeviceState;

use crate::error::GuestError;
use crate::program::next;

/// What the device is called in a snapshot.
pub(super) const KIND: &str = "tinyvm-lane";

const VERSION: u32 = 1;

/// Its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    /// What the next byte read is computed from.
    next: u64,
    /// All bytes written, in their order.
    heard: u64,
    /// Timer interrupts that came once more, as counted by the guest.
    pub(super) repeated: u32,
    /// The vCPU's checksum, once it is done.
    pub(super) checksum: Option<u32>,
}

impl Lane {
    pub(super) fn new(seed: u64, vcpu: u64) -> Self {
        Self {
            next: next(seed ^ !vcpu),
            heard: 0,
            repeated: 0,
            checksum: None,
        }
    }

    /// The next bytes, by whatever way they are read.
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.next = next(self.next);
            [.., *byte] = self.next.to_le_bytes();
        }
    }

    /// Takes bytes, by whatever way they are written.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.heard = next(self.heard ^ u64::from(byte));
        }
    }

    /// A number that depends on all that was written, and on the checksum.
    pub(super) fn sum(&self) -> u64 {
        next(self.heard ^ u64::from(self.checksum.unwrap_or_default()))
    }

    pub(super) fn save(&self, vcpu: u32) -> DeviceState {
        let checksum = self.checksum.map_or(u64::MAX, u64::from);
        let words = [self.next, self.heard, self.repeated.into(), checksum];
        DeviceState {
            kind: KIND.to_owned(),
            instance: vcpu,
            version: VERSION,
            bytes: words.into_iter().flat_map(u64::to_le_bytes).collect(),
        }
    }

    pub(super) fn restore(saved: &DeviceState, vcpu: u32) -> Result<Self, GuestError> {
        let foreign = GuestError::ForeignState { wanted: KIND };
        if saved.kind != KIND || saved.version != VERSION || saved.instance != vcpu {
            return Err(foreign);
        }
        let (words, []) = saved.bytes.as_chunks::<8>() else {
            return Err(foreign);
        };
        let &[next, heard, repeated, checksum] = words else {
            return Err(foreign);
        };
        Ok(Self {
            next: u64::from_le_bytes(next),
            heard: u64::from_le_bytes(heard),
            repeated: u32::try_from(u64::from_le_bytes(repeated)).map_err(|_| foreign)?,
            checksum: u32::try_from(u64::from_le_bytes(checksum)).ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_lane_goes_on_where_it_was() {
        let mut lane = Lane::new(7, 2);
        lane.write(b"some");
        let mut restored = Lane::restore(&lane.save(2), 2).unwrap();
        assert_eq!(restored, lane);
        let (mut one, mut other) = ([0; 5], [0; 5]);
        lane.read(&mut one);
        restored.read(&mut other);
        assert_eq!(one, other);
        lane.write(b"more");
        assert_ne!(lane.sum(), restored.sum());
    }

    #[test]
    fn vcpus_do_not_share_a_lane() {
        let (mut one, mut other) = ([0; 8], [0; 8]);
        Lane::new(7, 0).read(&mut one);
        Lane::new(7, 1).read(&mut other);
        assert_ne!(one, other);
        let saved = Lane::new(7, 1).save(1);
        Lane::restore(&saved, 0).unwrap_err();
    }
}
