//! A fake of Hypervisor.framework that runs everywhere, and refuses what Apple's refuses.
//!
//! It models registers, the interrupt controller, timers and protected memory, and runs guests of
//! a few steps. Each value is a process of its own, as far as the framework is concerned; clones
//! are the same one. Every call is recorded.

mod gic;
mod guest;
mod machine;
mod memory;
mod vcpu;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use guest::GuestStep;

use crate::hv::{
    Flag, GicConfig, HostInfo, HostTime, Hv, Protection, RawExit, Register, SmeMode, SmeRegister,
    VcpuHandle, VmConfig,
};
use crate::refusal::{HvCode, HvRefusal};
use machine::State;

/// The fake.
#[derive(Clone)]
pub struct FakeHv {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// A vCPU was asked to leave the guest.
    exits: Condvar,
}

impl FakeHv {
    /// The framework on a host of this kind, of a process that may use it.
    #[must_use]
    pub fn new(host: HostInfo) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(host)),
                exits: Condvar::new(),
            }),
        }
    }

    /// A host with every feature that the fake knows.
    #[must_use]
    pub fn host_with_everything() -> HostInfo {
        HostInfo {
            os_build: "24F74".to_owned(),
            cpu_brand: "Apple M4 Max".to_owned(),
            page_bytes: 16 << 10,
            counter_hz: 24_000_000,
            sme_vector_bytes: 64,
            el2: true,
            max_address_bits: 40,
        }
    }

    /// Answers every later call whose record starts with `prefix` by `code`.
    pub fn refuse(&self, prefix: &str, code: HvCode) {
        self.lock().refused.push((prefix.to_owned(), code, false));
    }

    /// Answers the next call whose record starts with `prefix` by `code`.
    pub fn refuse_once(&self, prefix: &str, code: HvCode) {
        self.lock().refused.push((prefix.to_owned(), code, true));
    }

    /// Ends what [`refuse`](Self::refuse) began.
    pub fn refuse_nothing(&self) {
        self.lock().refused.clear();
    }

    /// Every call so far, oldest first: its name, and what tells it from others.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// Forgets the record.
    pub fn forget_calls(&self) {
        self.lock().calls.clear();
    }

    /// Sets the host's clocks.
    pub fn set_time(&self, time: HostTime) {
        self.lock().time = time;
    }

    /// Gives the guest memory (`hv_vm_map`).
    pub fn map(&self, start: u64, len_bytes: u64, to: Protection) -> Result<(), HvRefusal> {
        self.lock().memory.map(start, len_bytes, to)
    }

    /// What the guest may do at an address; `None` where there is no memory.
    #[must_use]
    pub fn protection(&self, address: u64) -> Option<Protection> {
        self.lock().memory.protection(address)
    }

    /// Gives a vCPU what it does: step `n` is at the address `4 * n`.
    pub fn load(&self, vcpu: VcpuHandle, steps: Vec<GuestStep>) -> Result<(), HvRefusal> {
        let mut state = self.lock();
        state.vcpu_of_any_thread("load", vcpu)?.program = steps;
        Ok(())
    }

    /// The addresses that guests stored to, in the order of the stores.
    #[must_use]
    pub fn stores(&self) -> Vec<u64> {
        self.lock().memory.stores.clone()
    }

    /// Sets the level of a shared interrupt's line (`hv_gic_set_spi`): it is part of the opaque
    /// state, and of no register.
    pub fn set_line(&self, interrupt: u32, level: bool) -> Result<(), HvRefusal> {
        self.lock()
            .gic("hv_gic_set_spi")?
            .set_line(interrupt, level)
    }

    /// The level of a shared interrupt's line.
    #[must_use]
    pub fn line(&self, interrupt: u32) -> bool {
        let mut state = self.lock();
        state
            .gic("line")
            .is_ok_and(|gic| gic.lines.contains(&interrupt))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked in a call fails anyway.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a call, and answers it if a test wants so.
    fn begin(&self, record: String) -> Result<MutexGuard<'_, State>, HvRefusal> {
        let mut state = self.lock();
        let mut refused = state.refused.iter();
        let place = refused.position(|(prefix, ..)| record.starts_with(prefix));
        state.calls.push(record);
        let Some(place) = place else {
            return Ok(state);
        };
        let refused = state
            .refused
            .get(place)
            .map(|(_, code, once)| (*code, *once));
        let (code, once) = refused.unwrap_or((HvCode::Error, false));
        if once {
            state.refused.remove(place);
        }
        Err(code.to("refused by a test"))
    }
}

impl Hv for FakeHv {
    fn host(&self) -> Result<HostInfo, HvRefusal> {
        let state = self.begin("host".to_owned())?;
        Ok(state.host.clone())
    }

    fn time(&self) -> HostTime {
        self.lock().time
    }

    fn create_vm(&self, config: VmConfig) -> Result<(), HvRefusal> {
        self.begin("hv_vm_create".to_owned())?.create_vm(config)
    }

    fn destroy_vm(&self) -> Result<(), HvRefusal> {
        self.begin("hv_vm_destroy".to_owned())?.destroy_vm()
    }

    fn create_gic(&self, config: &GicConfig) -> Result<(), HvRefusal> {
        self.begin("hv_gic_create".to_owned())?.create_gic(config)
    }

    fn gic_state(&self) -> Result<Vec<u8>, HvRefusal> {
        self.begin("hv_gic_state_create".to_owned())?.gic_state()
    }

    fn set_gic_state(&self, state: &[u8]) -> Result<(), HvRefusal> {
        self.begin("hv_gic_set_state".to_owned())?
            .set_gic_state(state)
    }

    fn distributor(&self, offset: u16) -> Result<u64, HvRefusal> {
        const CALL: &str = "hv_gic_get_distributor_reg";
        let mut state = self.begin(format!("{CALL} {offset:#06x}"))?;
        state.gic(CALL)?.distributor.read(CALL, offset.into())
    }

    fn set_distributor(&self, offset: u16, value: u64) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_gic_set_distributor_reg";
        let mut state = self.begin(format!("{CALL} {offset:#06x}"))?;
        let gic = state.gic(CALL)?;
        gic.distributor.write(CALL, offset.into(), value)
    }

    fn protect(&self, start: u64, len_bytes: u64, to: Protection) -> Result<(), HvRefusal> {
        let record = format!("hv_vm_protect {start:#x} {len_bytes:#x} {:#x}", to.0);
        self.begin(record)?.memory.protect(start, len_bytes, to)
    }

    fn create_vcpu(&self) -> Result<VcpuHandle, HvRefusal> {
        self.begin("hv_vcpu_create".to_owned())?.create_vcpu()
    }

    fn destroy_vcpu(&self, vcpu: VcpuHandle) -> Result<(), HvRefusal> {
        self.begin(format!("hv_vcpu_destroy {}", vcpu.0))?
            .destroy_vcpu(vcpu)
    }

    fn run_vcpu(&self, vcpu: VcpuHandle) -> Result<RawExit, HvRefusal> {
        let mut state = self.begin(format!("hv_vcpu_run {}", vcpu.0))?;
        state.start_run(vcpu)?;
        loop {
            if let Some(exit) = state.step(vcpu)? {
                return Ok(exit);
            }
            // The guest spins: others go on meanwhile.
            let woken = self.shared.exits.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn exit_vcpus(&self, vcpus: &[VcpuHandle]) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("hv_vcpus_exit {}", vcpus.len()))?;
        for vcpu in vcpus {
            state.vcpu_of_any_thread("hv_vcpus_exit", *vcpu)?.exit_asked = true;
        }
        drop(state);
        self.shared.exits.notify_all();
        Ok(())
    }

    fn register(&self, vcpu: VcpuHandle, register: Register) -> Result<u64, HvRefusal> {
        self.begin(format!("get {} {register:?}", vcpu.0))?
            .register(vcpu, register)
    }

    fn set_register(
        &self,
        vcpu: VcpuHandle,
        register: Register,
        value: u64,
    ) -> Result<(), HvRefusal> {
        self.begin(format!("set {} {register:?}", vcpu.0))?
            .set_register(vcpu, register, value)
    }

    fn flag(&self, vcpu: VcpuHandle, flag: Flag) -> Result<bool, HvRefusal> {
        let mut state = self.begin(format!("get {} {flag:?}", vcpu.0))?;
        Ok(state.vcpu("get flag", vcpu)?.flags.contains(&flag))
    }

    fn set_flag(&self, vcpu: VcpuHandle, flag: Flag, on: bool) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("set {} {flag:?} {on}", vcpu.0))?;
        let flags = &mut state.vcpu("set flag", vcpu)?.flags;
        if on {
            flags.insert(flag);
        } else {
            flags.remove(&flag);
        }
        Ok(())
    }

    fn vector(&self, vcpu: VcpuHandle, number: u32) -> Result<u128, HvRefusal> {
        let mut state = self.begin(format!("get {} Q{number}", vcpu.0))?;
        state.vcpu("hv_vcpu_get_simd_fp_reg", vcpu)?.vector(number)
    }

    fn set_vector(&self, vcpu: VcpuHandle, number: u32, value: u128) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("set {} Q{number}", vcpu.0))?;
        let vcpu = state.vcpu("hv_vcpu_set_simd_fp_reg", vcpu)?;
        vcpu.set_vector(number, value)
    }

    fn sme_mode(&self, vcpu: VcpuHandle) -> Result<SmeMode, HvRefusal> {
        let mut state = self.begin(format!("get {} SME mode", vcpu.0))?;
        state.need_sme("hv_vcpu_get_sme_state")?;
        Ok(state.vcpu("hv_vcpu_get_sme_state", vcpu)?.sme_mode)
    }

    fn set_sme_mode(&self, vcpu: VcpuHandle, mode: SmeMode) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("set {} SME mode", vcpu.0))?;
        state.need_sme("hv_vcpu_set_sme_state")?;
        state
            .vcpu("hv_vcpu_set_sme_state", vcpu)?
            .set_sme_mode(mode);
        Ok(())
    }

    fn sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        out: &mut [u8],
    ) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("get {} {register:?}", vcpu.0))?;
        let bytes = state.need_sme("hv_vcpu_get_sme_reg")?;
        let vcpu = state.vcpu("hv_vcpu_get_sme_reg", vcpu)?;
        vcpu.read_sme(register, bytes, out)
    }

    fn set_sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        value: &[u8],
    ) -> Result<(), HvRefusal> {
        let mut state = self.begin(format!("set {} {register:?}", vcpu.0))?;
        let bytes = state.need_sme("hv_vcpu_set_sme_reg")?;
        let vcpu = state.vcpu("hv_vcpu_set_sme_reg", vcpu)?;
        vcpu.write_sme(register, bytes, value)
    }
}

impl fmt::Debug for FakeHv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("FakeHv")
            .field("host", &state.host)
            .field("calls", &state.calls.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
