//! A kernel that records what it is asked.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings as kvm;

use crate::calls::{Arg, Calls, Target};
use crate::lists::{decode_list, encode_list, write};
use crate::request::{self as req, Request};

const TSC: u32 = 0x10;

/// Clones are the same kernel.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    state: Arc<Mutex<State>>,
    /// Whether this is the machine that things are tried out on.
    scratch: bool,
}

#[derive(Default)]
struct State {
    made: Vec<String>,
    lacking: Vec<u64>,
    refused: Vec<(String, i32)>,
    refused_msrs: Vec<u32>,
    unreadable_msrs: Vec<u32>,
    /// Registers that can be read and not written, with their value.
    constants: Vec<(u32, u64)>,
    written_msrs: Vec<(Target, u32, u64)>,
    offsets: Vec<(Target, u64)>,
    /// What every TSC reads if the host sets none.
    host_counter: Option<u64>,
    /// Whether TSC frequencies can be set, and where they are.
    scaling: bool,
    khz: Option<u32>,
    version: Option<u64>,
    events: Option<kvm::kvm_vcpu_events>,
    debug: Option<kvm::kvm_debugregs>,
    clock: Option<kvm::kvm_clock_data>,
    cpuid: Vec<kvm::kvm_cpuid_entry2>,
    arguments: Vec<(&'static str, Vec<u8>)>,
}

impl Recorder {
    pub(super) fn lack(&self, capability: u32) {
        self.lock().lacking.push(capability.into());
    }

    pub(super) fn refuse(&self, call: &str, errno: i32) {
        self.lock().refused.insert(0, (call.to_owned(), errno));
    }

    pub(super) fn refuse_msr(&self, index: u32) {
        self.lock().refused_msrs.push(index);
    }

    /// A register that the machine's own vCPU cannot be read.
    pub(super) fn hide_msr(&self, index: u32) {
        self.lock().unreadable_msrs.push(index);
    }

    /// A register that can be read and not written.
    pub(super) fn constant_msr(&self, index: u32, value: u64) {
        self.lock().constants.push((index, value));
    }

    pub(super) fn answer_version(&self, version: u64) {
        self.lock().version = Some(version);
    }

    pub(super) fn answer_events(&self, events: kvm::kvm_vcpu_events) {
        self.lock().events = Some(events);
    }

    pub(super) fn answer_debug(&self, debug: kvm::kvm_debugregs) {
        self.lock().debug = Some(debug);
    }

    pub(super) fn answer_clock(&self, clock: kvm::kvm_clock_data) {
        self.lock().clock = Some(clock);
    }

    pub(super) fn answer_cpuid(&self, entry: kvm::kvm_cpuid_entry2) {
        self.lock().cpuid.push(entry);
    }

    /// The host sets no counter of a guest: all read this.
    pub(super) fn show_host_counter(&self, tsc: u64) {
        self.lock().host_counter = Some(tsc);
    }

    /// The host runs guests at other frequencies than its own.
    pub(super) fn scale_tsc(&self) {
        self.lock().scaling = true;
    }

    pub(super) fn made(&self) -> Vec<String> {
        let made = self.lock().made.clone();
        let asks = |call: &String| !call.contains("KVM_CHECK_EXTENSION");
        made.into_iter().filter(asks).collect()
    }

    /// The requests that change something.
    pub(super) fn changes(&self) -> Vec<String> {
        let mut made = self.made();
        made.retain(|call| !call.contains("KVM_GET_"));
        made
    }

    pub(super) fn forget(&self) {
        self.lock().made.clear();
    }

    /// The value that was written last to a register.
    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        let state = self.lock();
        let mut written = state.written_msrs.iter().rev();
        written
            .find(|(_, of, _)| *of == index)
            .map(|(_, _, value)| *value)
    }

    /// The value that was written last to a register of one vCPU.
    pub(super) fn msr_of(&self, vcpu: usize, index: u32) -> Option<u64> {
        let state = self.lock();
        let mut written = state.written_msrs.iter().rev();
        written
            .find(|(of, register, _)| (*of, *register) == (Target::Vcpu(vcpu), index))
            .map(|(_, _, value)| *value)
    }

    /// The offset that a vCPU was given.
    pub(super) fn offset(&self, vcpu: usize) -> Option<u64> {
        let state = self.lock();
        let mut offsets = state.offsets.iter().rev();
        offsets
            .find(|(of, _)| *of == Target::Vcpu(vcpu))
            .map(|(_, offset)| *offset)
    }

    /// The argument of the last request of this name.
    pub(super) fn argument(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        let mut arguments = state.arguments.iter().rev();
        let found = arguments.find(|(of, _)| *of == name);
        found.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn record(&self, target: Target, call: &str) -> io::Result<()> {
        let target = match target {
            _ if self.scratch => "scratch".to_owned(),
            Target::System => "kvm".to_owned(),
            Target::Vm => "vm".to_owned(),
            Target::Vcpu(index) => index.to_string(),
            Target::Device(index) => format!("device {index}"),
        };
        let mut state = self.lock();
        state.made.push(format!("{target}: {call}"));
        match state.refused.iter().find(|(refused, _)| refused == call) {
            Some(&(_, errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl State {
    fn extension(&self, capability: u64) -> u64 {
        if self.lacking.contains(&capability) {
            return 0;
        }
        match u32::try_from(capability) {
            Ok(kvm::KVM_CAP_XSAVE2) => 4096,
            Ok(kvm::KVM_CAP_NESTED_STATE) => 128,
            Ok(kvm::KVM_CAP_ADJUST_CLOCK) => 14,
            Ok(kvm::KVM_CAP_TSC_CONTROL) => self.scaling.into(),
            _ => 1,
        }
    }

    /// The value of a register; `None` if it cannot be read.
    fn read_msr(&self, target: Target, index: u32, scratch: bool) -> Option<u64> {
        let constant = self.constants.iter().find(|(of, _)| *of == index);
        if let Some((_, value)) = constant {
            return Some(*value);
        }
        let hidden = !scratch && self.unreadable_msrs.contains(&index);
        if hidden || self.refused_msrs.contains(&index) {
            return None;
        }
        if index == TSC && self.host_counter.is_some() {
            return self.host_counter;
        }
        let mut written = self.written_msrs.iter().rev();
        let written = written.find(|(vcpu, of, _)| (*vcpu, *of) == (target, index));
        Some(written.map_or(0, |(_, _, value)| *value))
    }

    fn get_msrs(&self, target: Target, bytes: &mut [u8], scratch: bool) -> u64 {
        let mut entries: Vec<kvm::kvm_msr_entry> = decode_list(8, bytes);
        let mut read = 0;
        for entry in &mut entries {
            let Some(value) = self.read_msr(target, entry.index, scratch) else {
                break;
            };
            entry.data = value;
            read += 1;
        }
        bytes.copy_from_slice(&encode_list(8, &entries));
        read
    }

    fn set_msrs(&mut self, target: Target, bytes: &[u8]) -> u64 {
        let entries: Vec<kvm::kvm_msr_entry> = decode_list(8, bytes);
        let mut written = 0;
        for entry in entries {
            let constant = self.constants.iter().any(|(of, _)| *of == entry.index);
            if constant || self.refused_msrs.contains(&entry.index) {
                break;
            }
            self.written_msrs.push((target, entry.index, entry.data));
            written += 1;
        }
        written
    }

    fn answer(&mut self, target: Target, request: Request, bytes: &mut [u8], scratch: bool) -> u64 {
        match request {
            req::KVM_GET_MSR_INDEX_LIST => write(bytes, 0, &0_u32),
            req::KVM_GET_CPUID2 | req::KVM_GET_SUPPORTED_CPUID => {
                let list = encode_list(8, &self.cpuid);
                bytes[..list.len()].copy_from_slice(&list);
            }
            req::KVM_GET_NESTED_STATE => write(bytes, 4, &0_u32),
            req::KVM_GET_VCPU_EVENTS => write(bytes, 0, &self.events.unwrap_or_default()),
            req::KVM_GET_DEBUGREGS => write(bytes, 0, &self.debug.unwrap_or_default()),
            req::KVM_GET_CLOCK => {
                let clock = kvm::kvm_clock_data {
                    flags: kvm::KVM_CLOCK_HOST_TSC,
                    clock: 1_000,
                    host_tsc: 40,
                    ..Default::default()
                };
                write(bytes, 0, &self.clock.unwrap_or(clock));
            }
            req::KVM_GET_MSRS => return self.get_msrs(target, bytes, scratch),
            req::KVM_SET_MSRS => return self.set_msrs(target, bytes),
            _ => self.arguments.push((request.name, bytes.to_vec())),
        }
        0
    }
}

/// The name of a request; registers that are written are named, too.
fn name(request: Request, arg: &Arg<'_>) -> String {
    match arg {
        Arg::Bytes(bytes) if request == req::KVM_SET_MSRS => {
            let entries: Vec<kvm::kvm_msr_entry> = decode_list(8, bytes);
            let indices: Vec<_> = entries.iter().map(|e| format!("{:#x}", e.index)).collect();
            format!("{} {}", request.name, indices.join(" "))
        }
        _ => request.name.to_owned(),
    }
}

impl Calls for Recorder {
    fn call(&mut self, target: Target, request: Request, arg: Arg<'_>) -> io::Result<u64> {
        self.record(target, &name(request, &arg))?;
        let scratch = self.scratch;
        let mut state = self.lock();
        match arg {
            Arg::Value(capability) if request == req::KVM_CHECK_EXTENSION => {
                Ok(state.extension(capability))
            }
            Arg::Value(_) if request == req::KVM_GET_API_VERSION => Ok(state.version.unwrap_or(12)),
            Arg::Value(khz) if request == req::KVM_SET_TSC_KHZ => {
                state.khz = u32::try_from(khz).ok();
                Ok(0)
            }
            Arg::Value(_) => Ok(state.khz.unwrap_or(1_000_000).into()),
            Arg::Bytes(bytes) => {
                assert!(bytes.len() >= request.arg_bytes, "{}", request.name);
                Ok(state.answer(target, request, bytes, scratch))
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
        self.record(target, &format!("{} {group}/{attribute}", request.name))?;
        let mut state = self.lock();
        let keeps = state.host_counter.is_none();
        if request == req::KVM_SET_DEVICE_ATTR && keeps {
            state.offsets.push((target, *value));
        } else if request == req::KVM_GET_DEVICE_ATTR {
            let mut offsets = state.offsets.iter().rev();
            let found = offsets.find(|(of, _)| *of == target);
            *value = found.map_or(0, |(_, offset)| *offset);
        }
        Ok(())
    }

    fn register(
        &mut self,
        target: Target,
        request: Request,
        id: u64,
        value: &mut [u8],
    ) -> io::Result<()> {
        self.record(target, &format!("{} {id:#x}", request.name))?;
        if request == req::KVM_GET_ONE_REG {
            value.fill(0x5a);
        } else {
            self.lock().arguments.push((request.name, value.to_vec()));
        }
        Ok(())
    }

    fn scratch(&mut self, _: bool) -> io::Result<Box<dyn Calls>> {
        self.record(Target::System, "make a machine to try out")?;
        Ok(Box::new(Self {
            scratch: true,
            ..self.clone()
        }))
    }
}
