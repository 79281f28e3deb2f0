//! A kernel of aarch64 that records what it is asked, keeps what it is told, and refuses what the
//! real one refuses.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use snapshot_format::state::SystemRegisterId as Id;

use super::controller::Controller;
use super::vcpu::{CCSIDR, Host, PSCI, Vcpu};
use crate::arm64::{abi, save};
use crate::calls::{Arg, Calls, Target};
use crate::lists::{read, write};
use crate::request::arm64 as arm;
use crate::request::{self as req, Request};

pub(super) struct State {
    pub(super) host: Host,
    pub(super) made: Vec<String>,
    refused: Vec<(String, i32)>,
    pub(super) is_running: bool,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) devices: Vec<Controller>,
    pub(super) virtual_offset: u64,
    pub(super) physical_offset: u64,
    is_offset_of_machine: bool,
}

/// Clones are the same kernel.
#[derive(Clone)]
pub(super) struct Kernel(Arc<Mutex<State>>);

pub(super) fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Kernel {
    pub(super) fn new(host: Host, vcpu_count: usize, devices: Vec<Controller>) -> Self {
        let has_v3 = devices.iter().any(Controller::is_v3);
        let vcpu = || Vcpu {
            gic: has_v3.into(),
            ..Vcpu::default()
        };
        Self(Arc::new(Mutex::new(State {
            // As a machine is made: its virtual counter begins at 0, the physical is the host's.
            virtual_offset: host.count,
            physical_offset: 0,
            host,
            made: Vec::new(),
            refused: Vec::new(),
            is_running: false,
            vcpus: (0..vcpu_count).map(|_| vcpu()).collect(),
            devices,
            is_offset_of_machine: false,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Refuses what begins like this.
    pub(super) fn refuse(&self, call: &str, errno: i32) {
        self.state().refused.push((call.to_owned(), errno));
    }

    /// What was asked, reads of extensions apart, runs of the same thing as one.
    pub(super) fn made(&self) -> Vec<String> {
        let mut made = self.state().made.clone();
        made.retain(|call| !call.contains("KVM_CHECK_EXTENSION"));
        made.dedup();
        made
    }

    pub(super) fn forget(&self) {
        self.state().made.clear();
    }
}

impl State {
    fn record(&mut self, target: Target, call: &str) -> io::Result<()> {
        let target = match target {
            Target::System => "kvm".to_owned(),
            Target::Vm => "vm".to_owned(),
            Target::Vcpu(index) => index.to_string(),
            Target::Device(0) => "gic".to_owned(),
            Target::Device(number) => format!("its{}", number - 1),
        };
        let call = format!("{target}: {call}");
        let mut refused = self.refused.iter();
        let found = refused.find(|(refused, _)| call.starts_with(refused));
        let found = found.map(|(_, errno)| *errno);
        self.made.push(call);
        found.map_or(Ok(()), errno)
    }

    fn tick(&mut self) -> u64 {
        self.host.count += 1;
        self.host.count
    }

    fn machine_request(&mut self, request: Request, bytes: &mut [u8]) -> io::Result<u64> {
        match request {
            arm::KVM_ARM_PREFERRED_TARGET => write(bytes, 0, &5_u32),
            arm::KVM_CREATE_DEVICE => {
                let (kind, flags): (u32, u32) = (read(bytes, 0), read(bytes, 8));
                assert_eq!(flags, abi::CREATE_DEVICE_TEST);
                if kind == abi::DEVICE_VGIC_V2 {
                    return errno(libc::ENODEV);
                }
            }
            arm::KVM_ARM_SET_COUNTER_OFFSET => {
                if self.is_running {
                    return errno(libc::EBUSY);
                }
                self.virtual_offset = read(bytes, 0);
                self.physical_offset = self.virtual_offset;
                self.is_offset_of_machine = true;
            }
            _ => return errno(libc::ENOTTY),
        }
        Ok(0)
    }

    fn get_register(&mut self, index: usize, id: u64, value: &mut [u8]) -> io::Result<()> {
        let now = self.tick();
        let vcpu = &self.vcpus[index];
        vcpu.check_register(id)?;
        let bytes = match id {
            abi::SVE_VLS => vcpu.lengths.iter().flat_map(|w| w.to_le_bytes()).collect(),
            abi::VTIMER_CNT => now.wrapping_sub(self.virtual_offset).to_le_bytes().to_vec(),
            abi::PTIMER_CNT => now
                .wrapping_sub(self.physical_offset)
                .to_le_bytes()
                .to_vec(),
            _ => vcpu.registers[&id].clone(),
        };
        value.copy_from_slice(&bytes);
        Ok(())
    }

    fn set_register(&mut self, index: usize, id: u64, value: &[u8]) -> io::Result<()> {
        let now = self.tick();
        let vcpu = &mut self.vcpus[index];
        vcpu.check_register(id)?;
        let (new, old): (u64, u64) = (read(value, 0), read(&vcpu.registers[&id], 0));
        match id {
            abi::SVE_VLS => return vcpu.set_lengths(&self.host, value),
            abi::VTIMER_CNT | abi::PTIMER_CNT if self.is_offset_of_machine => {}
            abi::VTIMER_CNT => self.virtual_offset = now.wrapping_sub(new),
            abi::PTIMER_CNT => self.physical_offset = now.wrapping_sub(new),
            CCSIDR if new != old => return errno(libc::EINVAL),
            PSCI if new > 0x1_0003 => return errno(libc::EINVAL),
            _ => {
                let encoding = save::system_id(id);
                let of_host = encoding.and_then(|id| self.host.identity.get(&id));
                let is_feature = encoding.is_some_and(Id::is_feature_id);
                // Features can be taken away; what the CPU is cannot be changed.
                let is_lying =
                    id == abi::system(Id::ID_AA64PFR0_EL1) && new >> 24 & 0xf != vcpu.gic;
                let refuses = |host: &u64| new != old && (!is_feature || new > *host || is_lying);
                if of_host.is_some_and(refuses) {
                    return errno(libc::EINVAL);
                }
                vcpu.registers.insert(id, value.to_vec());
            }
        }
        Ok(())
    }
}

/// What kind of register it is, in a word.
fn kind(id: u64) -> &'static str {
    match id {
        abi::SVE_VLS => "vector lengths",
        abi::VTIMER_CNT => "virtual count",
        abi::VTIMER_CVAL => "virtual compare",
        abi::VTIMER_CTL => "virtual control",
        abi::PTIMER_CNT => "physical count",
        abi::PTIMER_CVAL => "physical compare",
        abi::PTIMER_CTL => "physical control",
        CCSIDR => "cache",
        _ => match id & abi::GROUP_MASK {
            abi::CORE if id >> 52 & 0xf == 4 => "v",
            abi::CORE if id >> 52 & 0xf == 2 => "fp",
            abi::CORE => "core",
            abi::SVE => "sve",
            abi::FIRMWARE => "firmware",
            _ => match save::system_id(id) {
                Some(Id::MPIDR_EL1) => "MPIDR_EL1",
                Some(id) if id.is_feature_id() => "feature",
                Some(_) => "system",
                None => "unknown",
            },
        },
    }
}

impl Calls for Kernel {
    fn call(&mut self, target: Target, request: Request, arg: Arg<'_>) -> io::Result<u64> {
        let mut state = self.state();
        state.record(target, request.name)?;
        match (target, arg) {
            (_, Arg::Value(number)) if request == req::KVM_CHECK_EXTENSION => {
                let number = u32::try_from(number).unwrap();
                Ok(state.host.extension(number))
            }
            (_, Arg::Value(_)) => Ok(state.host.version),
            (Target::Vcpu(index), Arg::Bytes(bytes)) => {
                assert!(bytes.len() >= request.arg_bytes, "{}", request.name);
                let host = state.host.clone();
                state.vcpus[index].request(&host, index, request, bytes)
            }
            (_, Arg::Bytes(bytes)) => {
                assert!(bytes.len() >= request.arg_bytes, "{}", request.name);
                state.machine_request(request, bytes)
            }
        }
    }

    fn attribute(
        &mut self,
        target: Target,
        request: Request,
        group: u32,
        attribute: u64,
        value: &mut u64,
    ) -> io::Result<()> {
        let mut state = self.state();
        let is_set = request == arm::KVM_SET_DEVICE_ATTR;
        let verb = if is_set { "set" } else { "get" };
        match target {
            Target::Device(index) => {
                let name = Controller::name(group, attribute);
                state.record(target, &format!("{verb} {name}"))?;
                let is_made = state.vcpus.iter().all(|vcpu| vcpu.init.is_some());
                let (is_busy, vcpus) = (state.is_running || !is_made, state.vcpus.len());
                let asked = (group, attribute);
                state.devices[index].access(asked, is_set, value, is_busy, vcpus)
            }
            Target::Vcpu(index) => {
                state.record(target, &format!("{verb} attribute {group}/{attribute}"))?;
                state.vcpus[index].attribute((group, attribute), is_set, value)
            }
            Target::System | Target::Vm => errno(libc::ENOTTY),
        }
    }

    fn register(
        &mut self,
        target: Target,
        request: Request,
        id: u64,
        value: &mut [u8],
    ) -> io::Result<()> {
        let Target::Vcpu(index) = target else {
            return errno(libc::ENOTTY);
        };
        assert_eq!(value.len(), 1 << (id >> 52 & 0xf), "{id:#x}");
        let mut state = self.state();
        let is_set = request == req::KVM_SET_ONE_REG;
        let verb = if is_set { "set" } else { "get" };
        state.record(target, &format!("{verb} {}", kind(id)))?;
        if is_set {
            state.set_register(index, id, value)
        } else {
            state.get_register(index, id, value)
        }
    }

    fn scratch(&mut self, _: bool) -> io::Result<Box<dyn Calls>> {
        let mut state = self.state();
        state.record(Target::System, "scratch")?;
        let host = state.host.clone();
        Ok(Box::new(Self::new(host, 1, Vec::new())))
    }

    fn counter_frequency(&mut self) -> io::Result<u64> {
        Ok(self.state().host.hz)
    }
}
