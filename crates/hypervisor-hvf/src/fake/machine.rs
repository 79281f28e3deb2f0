//! The machine of a fake process, and what may be done to it when.

use std::collections::BTreeMap;
use std::thread::ThreadId;

use super::gic::FakeGic;
use super::memory::FakeMemory;
use super::vcpu::FakeVcpu;
use crate::hv::{GicConfig, HostInfo, HostTime, Register, VcpuHandle, VmConfig};
use crate::refusal::{HvCode, HvRefusal};

/// vCPUs of one machine.
const MAX_VCPUS: usize = 64;

/// Everything that the framework knows of the process.
pub(super) struct State {
    pub(super) host: HostInfo,
    pub(super) time: HostTime,
    pub(super) calls: Vec<String>,
    /// What calls are answered by instead, and whether once only.
    pub(super) refused: Vec<(String, HvCode, bool)>,
    pub(super) memory: FakeMemory,
    vm: Option<Vm>,
}

struct Vm {
    config: VmConfig,
    gic: Option<FakeGic>,
    vcpus: BTreeMap<VcpuHandle, FakeVcpu>,
    created: u64,
}

impl State {
    pub(super) fn new(host: HostInfo) -> Self {
        Self {
            host,
            time: HostTime::default(),
            calls: Vec::new(),
            refused: Vec::new(),
            memory: FakeMemory::default(),
            vm: None,
        }
    }

    pub(super) fn create_vm(&mut self, config: VmConfig) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vm_create";
        if self.vm.is_some() {
            return Err(HvCode::Exists.to(CALL));
        }
        if config.el2 && !self.host.el2 {
            return Err(HvCode::Unsupported.to(CALL));
        }
        if config.address_bits > self.host.max_address_bits {
            return Err(HvCode::BadArgument.to(CALL));
        }
        self.vm = Some(Vm {
            config,
            gic: None,
            vcpus: BTreeMap::new(),
            created: 0,
        });
        Ok(())
    }

    pub(super) fn destroy_vm(&mut self) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vm_destroy";
        if !self.vm(CALL)?.vcpus.is_empty() {
            return Err(HvCode::Busy.to(CALL));
        }
        self.vm = None;
        self.memory = FakeMemory::default();
        Ok(())
    }

    pub(super) fn create_gic(&mut self, config: &GicConfig) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_gic_create";
        let vm = self.vm(CALL)?;
        if vm.gic.is_some() || !vm.vcpus.is_empty() {
            return Err(HvCode::Error.to(CALL));
        }
        vm.gic = Some(FakeGic::new(*config));
        Ok(())
    }

    pub(super) fn create_vcpu(&mut self) -> Result<VcpuHandle, HvRefusal> {
        const CALL: &str = "hv_vcpu_create";
        let vm = self.vm(CALL)?;
        let thread = std::thread::current().id();
        if vm.vcpus.values().any(|vcpu| vcpu.owner == thread) {
            return Err(HvCode::Busy.to(CALL));
        }
        if vm.vcpus.len() == MAX_VCPUS {
            return Err(HvCode::NoResources.to(CALL));
        }
        vm.created += 1;
        let handle = VcpuHandle(vm.created);
        vm.vcpus.insert(handle, FakeVcpu::new(thread));
        Ok(handle)
    }

    pub(super) fn destroy_vcpu(&mut self, vcpu: VcpuHandle) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vcpu_destroy";
        self.vcpu(CALL, vcpu)?;
        self.vm(CALL)?.vcpus.remove(&vcpu);
        Ok(())
    }

    /// A vCPU of this thread.
    pub(super) fn vcpu(
        &mut self,
        call: &'static str,
        vcpu: VcpuHandle,
    ) -> Result<&mut FakeVcpu, HvRefusal> {
        let thread = std::thread::current().id();
        let vcpu = self.vcpu_of_any_thread(call, vcpu)?;
        if vcpu.owner == thread {
            Ok(vcpu)
        } else {
            Err(HvCode::BadArgument.to(call))
        }
    }

    pub(super) fn vcpu_of_any_thread(
        &mut self,
        call: &'static str,
        vcpu: VcpuHandle,
    ) -> Result<&mut FakeVcpu, HvRefusal> {
        let vm = self.vm(call)?;
        vm.vcpus
            .get_mut(&vcpu)
            .ok_or_else(|| HvCode::BadArgument.to(call))
    }

    pub(super) fn gic(&mut self, call: &'static str) -> Result<&mut FakeGic, HvRefusal> {
        let vm = self.vm(call)?;
        vm.gic.as_mut().ok_or_else(|| HvCode::NoDevice.to(call))
    }

    pub(super) fn gic_state(&mut self) -> Result<Vec<u8>, HvRefusal> {
        const CALL: &str = "hv_gic_state_create";
        let build = self.host.os_build.clone();
        let affinities = self.affinities(CALL)?;
        let vm = self.vm(CALL)?;
        let redistributors = vm.vcpus.values().map(|vcpu| vcpu.redistributor.clone());
        let redistributors: Vec<_> = redistributors.collect();
        let gic = self.gic(CALL)?;
        Ok(gic.to_bytes(&build, &affinities, &redistributors))
    }

    pub(super) fn set_gic_state(&mut self, bytes: &[u8]) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_gic_set_state";
        let build = self.host.os_build.clone();
        let affinities = self.affinities(CALL)?;
        if self.vm(CALL)?.vcpus.values().any(|vcpu| vcpu.has_run) {
            return Err(HvCode::Busy.to(CALL));
        }
        let redistributors = self.gic(CALL)?.take_bytes(&build, &affinities, bytes)?;
        let vcpus = self.vm(CALL)?.vcpus.values_mut();
        for (vcpu, redistributor) in vcpus.zip(redistributors) {
            vcpu.redistributor = redistributor;
        }
        Ok(())
    }

    /// MPIDR of every vCPU: the GIC knows them by it.
    fn affinities(&mut self, call: &'static str) -> Result<Vec<u64>, HvRefusal> {
        let vcpus = self.vm(call)?.vcpus.values();
        Ok(vcpus.map(FakeVcpu::affinity).collect())
    }

    pub(super) fn need_sme(&self, call: &'static str) -> Result<usize, HvRefusal> {
        match usize::try_from(self.host.sme_vector_bytes) {
            Ok(bytes) if bytes > 0 => Ok(bytes),
            _ => Err(HvCode::Unsupported.to(call)),
        }
    }

    pub(super) fn register(
        &mut self,
        vcpu: VcpuHandle,
        register: Register,
    ) -> Result<u64, HvRefusal> {
        self.check_register("get register", register)?;
        self.vcpu("get register", vcpu)?.register(register)
    }

    pub(super) fn set_register(
        &mut self,
        vcpu: VcpuHandle,
        register: Register,
        value: u64,
    ) -> Result<(), HvRefusal> {
        const CALL: &str = "set register";
        self.check_register(CALL, register)?;
        if register == Register::MPIDR {
            self.check_affinity(vcpu, value)?;
        }
        self.vcpu(CALL, vcpu)?.set_register(register, value)
    }

    /// An affinity is given to one vCPU only, and not changed under a GIC that routes by it.
    fn check_affinity(&mut self, vcpu: VcpuHandle, value: u64) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vcpu_set_sys_reg";
        let vm = self.vm(CALL)?;
        let mut others = vm.vcpus.iter().filter(|(handle, _)| **handle != vcpu);
        if others.any(|(_, other)| other.has_affinity(value)) {
            return Err(HvCode::BadArgument.to(CALL));
        }
        let is_routed = vm.gic.as_ref().is_some_and(|gic| gic.is_restored);
        let is_same = vm
            .vcpus
            .get(&vcpu)
            .is_some_and(|own| own.has_affinity(value));
        if is_routed && !is_same {
            return Err(HvCode::Busy.to(CALL));
        }
        Ok(())
    }

    /// Registers that exist only with the feature they belong to.
    fn check_register(&mut self, call: &'static str, register: Register) -> Result<(), HvRefusal> {
        let has_sme = self.host.sme_vector_bytes > 0;
        let vm = self.vm(call)?;
        let (gic, el2) = (vm.gic.is_some(), vm.config.el2);
        let exists = match register {
            Register::Icc(_) | Register::Redistributor(_) | Register::System(0xdf10..=0xdf12) => {
                gic
            }
            Register::Ich(_) => gic && el2,
            Register::System(0xc094 | 0xc096 | 0xde85) => has_sme,
            // op1 is 4: EL2, but for SP_EL1.
            Register::System(id) if id >> 11 & 7 == 4 && id != 0xe208 => el2,
            Register::System(0xf208) => el2,
            _ => true,
        };
        if exists {
            Ok(())
        } else {
            Err(HvCode::Unsupported.to(call))
        }
    }

    fn vm(&mut self, call: &'static str) -> Result<&mut Vm, HvRefusal> {
        self.vm.as_mut().ok_or_else(|| HvCode::NoDevice.to(call))
    }
}

/// The thread that a vCPU belongs to.
pub(super) type Owner = ThreadId;
