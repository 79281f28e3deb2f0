//! A machine that is scripted, and that records what is asked of it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::calls::{Arg, Calls, DirtyCalls, MemorySlot, Target};
use crate::lists::read;
use crate::request::{self, Request};

/// Clones are the same machine.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
pub(super) struct Script {
    /// Everything that was asked, but for what is known of the kernel.
    pub(super) made: Vec<String>,
    /// Capabilities and what the kernel says of them.
    pub(super) known: Vec<(u32, u64)>,
    /// Logs of slots, given at every fetch.
    pub(super) log: Vec<(u32, Vec<u64>)>,
    /// Answers what is asked, by the first words of what is recorded.
    pub(super) refused: Vec<(&'static str, i32)>,
}

impl Recorder {
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked since the last time.
    pub(super) fn made(&self) -> Vec<String> {
        std::mem::take(&mut self.script().made)
    }

    fn make(&self, what: String) -> io::Result<()> {
        let mut script = self.script();
        let refused = script.refused.iter();
        let mut refused = refused.filter(|(words, _)| what.starts_with(words));
        let answer = refused.next().map(|(_, errno)| *errno);
        script.made.push(what);
        answer.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl Calls for Recorder {
    fn call(&mut self, _: Target, request: Request, arg: Arg<'_>) -> io::Result<u64> {
        match (request, arg) {
            (request::KVM_CHECK_EXTENSION, Arg::Value(capability)) => {
                let script = self.script();
                let mut known = script.known.iter();
                let known = known.find(|(known, _)| u64::from(*known) == capability);
                Ok(known.map_or(0, |(_, answer)| *answer))
            }
            (request::KVM_ENABLE_CAP, Arg::Bytes(bytes)) => {
                let (capability, argument) = (read::<u32>(bytes, 0), read::<u64>(bytes, 8));
                self.make(format!("enable {capability} {argument}"))?;
                Ok(0)
            }
            (request::KVM_RESET_DIRTY_RINGS, Arg::Value(0)) => {
                self.make("reset".to_owned())?;
                Ok(0)
            }
            #[cfg(target_arch = "x86_64")]
            (request::KVM_MEMORY_ENCRYPT_OP, Arg::Bytes(bytes)) => {
                let (id, fd) = (read::<u32>(bytes, 0), read::<u32>(bytes, 20));
                assert_eq!((id, fd), (16, u32::MAX), "the state, and no descriptor");
                let script = self.script();
                let refused = script.refused.iter().find(|(words, _)| *words == "sev");
                let errno = refused.map_or(libc::ENOTTY, |(_, errno)| *errno);
                Err(io::Error::from_raw_os_error(errno))
            }
            (request, _) => Err(io::Error::other(request.name)),
        }
    }

    fn attribute(&mut self, _: Target, _: Request, _: u32, _: u64, _: &mut u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, _: Target, _: Request, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DirtyCalls for Recorder {
    fn dirty_log(&mut self, slot: u32, bitmap: &mut [u64]) -> io::Result<()> {
        self.make(format!("get {slot}"))?;
        let script = self.script();
        for (_, words) in script.log.iter().filter(|(of, _)| *of == slot) {
            let to = bitmap.get_mut(..words.len());
            to.unwrap_or_default().copy_from_slice(words);
        }
        Ok(())
    }

    fn clear_dirty_log(
        &mut self,
        slot: u32,
        first_page: u64,
        page_count: u32,
        bitmap: &mut [u64],
    ) -> io::Result<()> {
        let set: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
        self.make(format!("clear {slot} {first_page}+{page_count} {set}"))
    }

    fn set_slot_flags(&mut self, slot: MemorySlot, flags: u32) -> io::Result<()> {
        self.make(format!("flags {} {flags}", slot.slot))
    }
}
