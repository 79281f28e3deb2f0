//! Completing the exit that a vCPU is in.

use std::io;

use snapshot_format::sabotage::Sabotage;

use crate::error::KvmError;

/// More exits in a row than any one instruction causes: string I/O over a page, byte by byte.
const MAX_ROUNDS: u32 = 65_536;

/// How an entry to the guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered {
    /// It was refused with EINTR: nothing is pending any more.
    Interrupted,
    /// It ended with another exit, which the VMM has handled.
    Exit,
}

/// The one vCPU whose thread this is.
pub trait EnterVcpu {
    /// Sets or clears `immediate_exit` in the vCPU's shared page.
    fn set_immediate_exit(&mut self, on: bool);

    /// Calls `KVM_RUN` once, and handles the exit if there is one.
    fn enter(&mut self) -> io::Result<Entered>;
}

/// Completes the exit that the vCPU is in, without running any further instruction.
///
/// What port, memory and register accesses do to the vCPU is applied when it is entered again, so
/// that a snapshot before that loses the answer or asks for it twice. With `immediate_exit` set,
/// KVM applies it and returns EINTR; a string access or one that crosses a page may cause further
/// exits first.
///
/// Call it on the vCPU's own thread when it is asked to stop.
pub fn complete_pending_exit(vcpu: usize, run: &mut dyn EnterVcpu) -> Result<(), KvmError> {
    if Sabotage::UnfinishedExit.is_on() {
        return Ok(());
    }
    run.set_immediate_exit(true);
    let mut result = Err(KvmError::ExitNeverEnds {
        vcpu,
        rounds: MAX_ROUNDS,
    });
    for _ in 0..MAX_ROUNDS {
        match run.enter() {
            Ok(Entered::Exit) => {}
            Ok(Entered::Interrupted) => {
                result = Ok(());
                break;
            }
            // Of a vCPU that waits for its start-up interrupt: it was looked for, and nothing ran.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(source) => {
                result = Err(KvmError::Ioctl {
                    request: "KVM_RUN",
                    vcpu: Some(vcpu),
                    source,
                });
                break;
            }
        }
    }
    run.set_immediate_exit(false);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted {
        exits_left: u32,
        /// How often it says EAGAIN, as a vCPU that waits to be started does.
        waits_left: u32,
        immediate: bool,
        fails: bool,
    }

    impl EnterVcpu for Scripted {
        fn set_immediate_exit(&mut self, on: bool) {
            self.immediate = on;
        }

        fn enter(&mut self) -> io::Result<Entered> {
            assert!(self.immediate, "the guest would run on");
            if self.fails {
                return Err(io::ErrorKind::Other.into());
            }
            if self.waits_left > 0 {
                self.waits_left -= 1;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.exits_left == 0 {
                return Ok(Entered::Interrupted);
            }
            self.exits_left -= 1;
            Ok(Entered::Exit)
        }
    }

    fn scripted(exits_left: u32, fails: bool) -> Scripted {
        Scripted {
            exits_left,
            waits_left: 0,
            immediate: false,
            fails,
        }
    }

    // spec: KVX-01
    #[test]
    fn a_vcpu_that_waits_to_be_started_is_stopped_as_any_other() {
        let mut vcpu = scripted(1, false);
        vcpu.waits_left = 2;
        complete_pending_exit(0, &mut vcpu).unwrap();
        assert_eq!((vcpu.waits_left, vcpu.exits_left), (0, 0));
    }

    // spec: KVX-01
    #[test]
    fn every_part_of_a_split_access_is_completed() {
        let mut vcpu = scripted(4096, false);
        complete_pending_exit(0, &mut vcpu).unwrap();
        assert_eq!((vcpu.exits_left, vcpu.immediate), (0, false));
    }

    #[test]
    fn the_flag_is_cleared_on_errors_too() {
        let mut vcpu = scripted(0, true);
        let failed = complete_pending_exit(3, &mut vcpu).unwrap_err();
        assert_eq!(failed.to_string(), "KVM_RUN of vCPU 3");
        assert!(!vcpu.immediate);
        let mut vcpu = scripted(u32::MAX, false);
        let endless = complete_pending_exit(3, &mut vcpu).unwrap_err();
        assert!(matches!(endless, KvmError::ExitNeverEnds { vcpu: 3, .. }));
        assert!(!vcpu.immediate);
    }
}
