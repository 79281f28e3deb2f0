//! The one device of the guest: it answers questions and hears how far the guest is.

use snapshot_format::state::DeviceState;

use crate::error::GuestError;
use crate::program::next;

/// What the device is called in a snapshot.
pub(crate) const KIND: &str = "tinyvm-port";

const VERSION: u32 = 1;

/// Its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortDevice {
    /// What the next answer is computed from.
    pub(crate) answers: u64,
    /// Questions answered so far.
    pub(crate) asked: u64,
    /// Steps that the guest has reported.
    pub(crate) steps: u64,
    /// The checksum, once the guest is done.
    pub(crate) checksum: Option<u32>,
}

impl PortDevice {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            answers: !seed,
            asked: 0,
            steps: 0,
            checksum: None,
        }
    }

    /// The answer to the next question.
    pub(crate) fn answer(&mut self) -> u32 {
        self.answers = next(self.answers);
        self.asked += 1;
        let [_, _, _, _, a, b, c, d] = self.answers.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    pub(crate) fn save(&self) -> DeviceState {
        let checksum = self.checksum.map_or(u64::MAX, u64::from);
        let words = [self.answers, self.asked, self.steps, checksum];
        DeviceState {
            kind: KIND.to_owned(),
            instance: 0,
            version: VERSION,
            bytes: words.into_iter().flat_map(u64::to_le_bytes).collect(),
        }
    }

    pub(crate) fn restore(saved: &DeviceState) -> Result<Self, GuestError> {
        let foreign = GuestError::ForeignState { wanted: KIND };
        if saved.kind != KIND || saved.version != VERSION {
            return Err(foreign);
        }
        let (words, []) = saved.bytes.as_chunks::<8>() else {
            return Err(foreign);
        };
        let &[answers, asked, steps, checksum] = words else {
            return Err(foreign);
        };
        Ok(Self {
            answers: u64::from_le_bytes(answers),
            asked: u64::from_le_bytes(asked),
            steps: u64::from_le_bytes(steps),
            checksum: u32::try_from(u64::from_le_bytes(checksum)).ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_device_gives_the_next_answer() {
        let mut device = PortDevice::new(7);
        device.answer();
        let mut restored = PortDevice::restore(&device.save()).unwrap();
        assert_eq!(restored, device);
        assert_eq!(restored.answer(), device.answer());
    }

    #[test]
    fn the_state_of_another_device_is_refused() {
        let good = PortDevice::new(7).save();
        let mut cut = good.clone();
        cut.bytes.pop();
        let mut other = good.clone();
        other.kind = "virtio-blk".into();
        let mut newer = good;
        newer.version += 1;
        for bad in [cut, other, newer] {
            assert!(PortDevice::restore(&bad).is_err(), "{bad:?} was accepted");
        }
    }
}
