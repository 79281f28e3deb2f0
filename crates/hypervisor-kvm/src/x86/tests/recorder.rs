//! A kernel that records what it is asked.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings as kvm;

use crate::calls::{Arg, Calls, MemorySlot, Target};
use crate::lists::{decode_list, read, write};
use crate::request::{self as req, Request};

/// Clones are the same kernel.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    made: Vec<String>,
    lacking: Vec<u64>,
    refused: Vec<(String, i32)>,
    refused_msrs: Vec<u32>,
    written_msrs: Vec<(u32, u64)>,
    version: Option<u64>,
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

    pub(super) fn answer_version(&self, version: u64) {
        self.lock().version = Some(version);
    }

    pub(super) fn made(&self) -> Vec<String> {
        let made = self.lock().made.clone();
        let asks = |call: &String| !call.contains("KVM_CHECK_EXTENSION");
        made.into_iter().filter(asks).collect()
    }

    pub(super) fn forget(&self) {
        self.lock().made.clear();
    }

    /// The value that was written last to a register.
    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        let state = self.lock();
        let mut written = state.written_msrs.iter().rev();
        written
            .find(|(of, _)| *of == index)
            .map(|(_, value)| *value)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn record(&mut self, target: Target, call: &str) -> io::Result<()> {
        let target = match target {
            Target::System => "kvm".to_owned(),
            Target::Vm => "vm".to_owned(),
            Target::Vcpu(index) => index.to_string(),
        };
        self.made.push(format!("{target}: {call}"));
        match self.refused.iter().find(|(refused, _)| refused == call) {
            Some(&(_, errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn extension(&self, capability: u64) -> u64 {
        if self.lacking.contains(&capability) {
            return 0;
        }
        match u32::try_from(capability) {
            Ok(kvm::KVM_CAP_XSAVE2) => 4096,
            Ok(kvm::KVM_CAP_NESTED_STATE) => 128,
            // No scaling of the TSC.
            Ok(kvm::KVM_CAP_TSC_CONTROL) => 0,
            _ => 1,
        }
    }

    /// How many registers of a batch are taken before one is refused.
    fn accepted(&self, bytes: &[u8]) -> Vec<kvm::kvm_msr_entry> {
        let entries: Vec<kvm::kvm_msr_entry> = decode_list(8, bytes);
        let taken = |entry: &kvm::kvm_msr_entry| !self.refused_msrs.contains(&entry.index);
        entries.into_iter().take_while(taken).collect()
    }

    fn answer(&mut self, request: Request, bytes: &mut [u8]) -> u64 {
        match request {
            req::KVM_GET_MSR_INDEX_LIST | req::KVM_GET_CPUID2 | req::KVM_GET_SUPPORTED_CPUID => {
                write(bytes, 0, &0_u32);
            }
            req::KVM_GET_NESTED_STATE => write(bytes, 4, &0_u32),
            req::KVM_GET_CLOCK => {
                let clock = kvm::kvm_clock_data {
                    flags: kvm::KVM_CLOCK_HOST_TSC,
                    clock: 1_000,
                    host_tsc: 40,
                    ..Default::default()
                };
                write(bytes, 0, &clock);
            }
            req::KVM_GET_MSRS => return self.accepted(bytes).len() as u64,
            req::KVM_SET_MSRS => {
                let accepted = self.accepted(bytes);
                let values = accepted.iter().map(|entry| (entry.index, entry.data));
                self.written_msrs.extend(values);
                return accepted.len() as u64;
            }
            _ => {}
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
        let mut state = self.lock();
        state.record(target, &name(request, &arg))?;
        match arg {
            Arg::Value(capability) if request == req::KVM_CHECK_EXTENSION => {
                Ok(state.extension(capability))
            }
            Arg::Value(_) if request == req::KVM_GET_API_VERSION => Ok(state.version.unwrap_or(12)),
            Arg::Value(_) => Ok(1_000_000),
            Arg::Bytes(bytes) => {
                assert!(bytes.len() >= request.arg_bytes, "{}", request.name);
                Ok(state.answer(request, bytes))
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
        let call = format!("{} {group}/{attribute}", request.name);
        *value = read(&[7; 8], 0);
        self.lock().record(target, &call)
    }

    fn dirty_log(&mut self, _: u32, _: &mut [u64]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn clear_dirty_log(&mut self, _: u32, _: u64, _: u32, _: &mut [u64]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_slot_flags(&mut self, _: MemorySlot, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
