//! A vCPU on its thread.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::state::{PowerState, SystemRegisterId};

use crate::abort::{self, Access, Syndrome};
use crate::crew::{Crew, Lines, Next};
use crate::error::HvfError;
use crate::hv::{Flag, Hv, RawExit, Register, VcpuHandle};
use crate::refusal::HvRefusal;
use crate::write_protect::WriteFaults;

/// `PSTATE` after `CPU_ON`: EL1 with its own stack pointer, all interrupts masked.
const START_PSTATE: u64 = 0x3c5;

/// MMU, data cache and instruction cache, which are off after `CPU_ON`.
const SCTLR_TRANSLATES: u64 = 1 | 1 << 2 | 1 << 12;

/// `CNTV_CTL_EL0`: enabled, and its interrupt not masked.
const TIMER_BITS: u64 = 0b11;
const TIMER_ON: u64 = 0b01;

/// The vCPU of this thread.
///
/// It cannot leave the thread: the framework answers no other one. Between two runs it goes to the
/// rendezvous when it is asked to, so that a machine never stands still with an access that was
/// not answered.
pub struct HvfVcpu {
    crew: Arc<Crew>,
    handle: VcpuHandle,
    number: usize,
    faults: Option<WriteFaults>,
    pending: Option<(Access, u64)>,
    is_own: bool,
    counter_hz: u64,
    _of_this_thread: PhantomData<*const ()>,
}

/// What the VMM has to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Exit {
    /// A load from a device: [`HvfVcpu::complete`] it with what the device says.
    Load {
        /// Guest physical address.
        address: u64,
        /// How.
        access: Access,
    },
    /// A store to a device: [`HvfVcpu::complete`] it, with whatever answer.
    Store {
        /// Guest physical address.
        address: u64,
        /// How.
        access: Access,
        /// What.
        value: u64,
    },
    /// `HVC`: the arguments are in X0 and so on, and so is the answer. PSCI comes this way.
    Call,
    /// The virtual timer fired, and is masked until the guest has handled its interrupt. Only
    /// without the framework's interrupt controller.
    Timer,
    /// An exception that the adapter does not know. Where its instruction is done for the guest,
    /// [`HvfVcpu::skip_instruction`].
    Other {
        /// `ESR_EL2`.
        syndrome: u64,
        /// The guest's virtual address.
        virtual_address: u64,
        /// The guest physical address.
        physical_address: u64,
    },
    /// The machine [`end`](Crew::end)s.
    Ended,
}

impl HvfVcpu {
    /// Creates the vCPU `number` of the crew on this thread, and gives it its affinity before
    /// anything else: the GIC finds its redistributor by it.
    pub fn create(crew: Arc<Crew>, number: usize, mpidr: u64) -> Result<Self, HvfError> {
        let handle = crew.hv().create_vcpu()?;
        let vcpu = Self::new(crew, number, handle, true)?;
        vcpu.set_register(Register::MPIDR, mpidr)?;
        Ok(vcpu)
    }

    /// Takes over a vCPU that this thread has created, with its affinity set. It is not destroyed
    /// in the end.
    pub fn adopt(crew: Arc<Crew>, number: usize, handle: VcpuHandle) -> Result<Self, HvfError> {
        Self::new(crew, number, handle, false)
    }

    fn new(
        crew: Arc<Crew>,
        number: usize,
        handle: VcpuHandle,
        is_own: bool,
    ) -> Result<Self, HvfError> {
        let counter_hz = crew.hv().host()?.counter_hz;
        let attached = crew.attach(number, handle);
        let vcpu = Self {
            crew,
            handle,
            number,
            faults: None,
            pending: None,
            is_own,
            counter_hz,
            _of_this_thread: PhantomData,
        };
        match attached {
            Ok(()) => Ok(vcpu),
            Err(error) => {
                // The place belongs to another vCPU, and stays its.
                vcpu.destroy();
                std::mem::forget(vcpu);
                Err(error)
            }
        }
    }

    /// Answers faults of write protection by `faults` from now on, without the VMM.
    pub fn set_write_faults(&mut self, faults: WriteFaults) {
        self.faults = Some(faults);
    }

    /// The framework's number.
    #[must_use]
    pub fn handle(&self) -> VcpuHandle {
        self.handle
    }

    /// Runs the guest until the VMM has to do something.
    ///
    /// On the way it waits while the vCPU is off or waits for an interrupt, and at the rendezvous.
    pub fn run(&mut self) -> Result<Exit, HvfError> {
        if let Some((_, address)) = self.pending {
            let vcpu = self.number;
            return Err(HvfError::ExitPending { vcpu, address });
        }
        loop {
            let is_parked = self.crew.power(self.number) == Some(PowerState::WaitingForInterrupt);
            let wake_after = if is_parked { self.until_timer()? } else { None };
            match self.crew.next(self.number, wake_after) {
                Next::Meet => self.crew.meeting().wait(self.number),
                Next::End => return Ok(Exit::Ended),
                Next::Start { entry, context } => self.start(entry, context)?,
                Next::Run(lines) => {
                    if let Some(exit) = self.enter(lines)? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    /// Answers the access that the last run ended with: the register of a load gets `answer`, and
    /// the guest goes on behind the instruction.
    pub fn complete(&mut self, answer: u64) -> Result<(), HvfError> {
        let vcpu = self.number;
        let nothing = HvfError::NothingPending { vcpu };
        let (access, _) = self.pending.ok_or(nothing)?;
        access.complete(&**self.crew.hv(), self.handle, answer)?;
        self.pending = None;
        Ok(())
    }

    /// Moves the program counter behind the instruction that it is at.
    pub fn skip_instruction(&self) -> Result<(), HvRefusal> {
        abort::skip_instruction(&**self.crew.hv(), self.handle)
    }

    /// Reads a register.
    pub fn register(&self, register: Register) -> Result<u64, HvRefusal> {
        self.crew.hv().register(self.handle, register)
    }

    /// Writes a register.
    pub fn set_register(&self, register: Register, value: u64) -> Result<(), HvRefusal> {
        self.crew.hv().set_register(self.handle, register, value)
    }

    /// The registers of a vCPU that was turned on.
    fn start(&self, entry: u64, context: u64) -> Result<(), HvRefusal> {
        let sctlr = Register::System(SystemRegisterId::SCTLR_EL1.0);
        let translation = self.register(sctlr)? & !SCTLR_TRANSLATES;
        self.set_register(sctlr, translation)?;
        self.set_register(Register::CPSR, START_PSTATE)?;
        self.set_register(Register::General(0), context)?;
        self.set_register(Register::PC, entry)?;
        self.crew.started(self.number);
        Ok(())
    }

    /// Enters the guest once; `None` where it can go on.
    fn enter(&mut self, lines: Lines) -> Result<Option<Exit>, HvfError> {
        let hv = self.crew.hv().clone();
        // The framework has dropped them at the end of the last run.
        for (flag, on) in [(Flag::PendingIrq, lines.irq), (Flag::PendingFiq, lines.fiq)] {
            if on {
                hv.set_flag(self.handle, flag, true)?;
            }
        }
        match hv.run_vcpu(self.handle)? {
            RawExit::Canceled => Ok(None),
            RawExit::VtimerActivated => Ok(Some(Exit::Timer)),
            RawExit::Unknown(reason) => {
                let vcpu = self.number;
                Err(HvfError::UnknownExit { vcpu, reason })
            }
            RawExit::Exception {
                syndrome,
                virtual_address,
                physical_address,
            } => match Syndrome::of(syndrome) {
                Syndrome::Call => Ok(Some(Exit::Call)),
                Syndrome::Wait { for_interrupt } => {
                    self.skip_instruction()?;
                    if for_interrupt {
                        self.crew.park(self.number);
                    }
                    Ok(None)
                }
                Syndrome::Abort { may_write, access } => {
                    self.abort(&*hv, syndrome, physical_address, may_write, access)
                }
                Syndrome::Other => Ok(Some(Exit::Other {
                    syndrome,
                    virtual_address,
                    physical_address,
                })),
            },
        }
    }

    fn abort(
        &mut self,
        hv: &dyn Hv,
        syndrome: u64,
        address: u64,
        may_write: bool,
        access: Option<Access>,
    ) -> Result<Option<Exit>, HvfError> {
        // The same instruction again, that is why the program counter stays.
        if may_write
            && let Some(faults) = &self.faults
            && faults.grant(address)?
        {
            return Ok(None);
        }
        let vcpu = self.number;
        let access = access.ok_or(HvfError::NoSyndrome {
            vcpu,
            address,
            syndrome,
        })?;
        let exit = if access.is_write {
            Exit::Store {
                address,
                access,
                value: access.stored(hv, self.handle)?,
            }
        } else {
            Exit::Load { address, access }
        };
        self.pending = Some((access, address));
        Ok(Some(exit))
    }

    /// How long until the virtual timer fires; `None` if it does not.
    fn until_timer(&self) -> Result<Option<Duration>, HvRefusal> {
        let control = self.register(Register::System(SystemRegisterId::CNTV_CTL_EL0.0))?;
        let hv = self.crew.hv();
        if control & TIMER_BITS != TIMER_ON || hv.flag(self.handle, Flag::VtimerMask)? {
            return Ok(None);
        }
        let compare = self.register(Register::System(SystemRegisterId::CNTV_CVAL_EL0.0))?;
        let offset = self.register(Register::VtimerOffset)?;
        let count = hv.time().absolute.wrapping_sub(offset);
        let ticks = u128::from(compare.saturating_sub(count));
        let nanos = ticks * 1_000_000_000 / u128::from(self.counter_hz.max(1));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Ok(Some(Duration::from_nanos(nanos)))
    }

    fn destroy(&self) {
        if self.is_own
            && let Err(refusal) = self.crew.hv().destroy_vcpu(self.handle)
        {
            tracing::warn!(vcpu = self.number, %refusal, "a vCPU is not destroyed");
        }
    }
}

impl Drop for HvfVcpu {
    fn drop(&mut self) {
        self.crew.detach(self.number);
        self.destroy();
    }
}

impl fmt::Debug for HvfVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HvfVcpu")
            .field("number", &self.number)
            .field("handle", &self.handle)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
