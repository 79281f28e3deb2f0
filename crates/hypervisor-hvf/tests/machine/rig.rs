//! A small VMM on the fake: a thread for each vCPU, one device, PSCI.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hypervisor_bridge::VcpuStop;
use hypervisor_hvf::fake::{FakeHv, GuestStep};
use hypervisor_hvf::{
    Crew, Exit, GicConfig, HostInfo, HostTime, Hv, HvfError, HvfMachine, HvfOptions, HvfVcpu,
    HvfVcpus, MsiConfig, Register, VcpuHandle, VmConfig, WriteFaults,
};

/// Long enough for any machine that tests run on.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the device says to every load.
pub(super) const DEVICE_SAYS: u64 = 0x8182_8384_8586_8788;

/// Where there is no memory.
pub(super) const DEVICE: u64 = 0x900_0000;

/// Function numbers of PSCI that the VMM knows.
pub(super) const CPU_OFF: u64 = 0x8400_0002;
pub(super) const CPU_ON: u64 = 0xc400_0003;

/// The GIC of every machine that has one.
pub(super) const GIC: GicConfig = GicConfig {
    distributor: 0x800_0000,
    redistributors: 0x80a_0000,
    msi: Some(MsiConfig {
        base: 0x802_0000,
        first: 64,
        count: 16,
    }),
};

/// Which machine.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) vcpus: usize,
    pub(super) options: HvfOptions,
}

impl Shape {
    /// Everything that the fake has.
    pub(super) fn full(vcpus: usize) -> Self {
        let mut options = HvfOptions::default();
        options.gic = Some(GIC);
        options.el2 = true;
        options.address_bits = 40;
        Self { vcpus, options }
    }

    /// A machine whose interrupt controller is the VMM's.
    pub(super) fn bare(vcpus: usize) -> Self {
        Self {
            vcpus,
            options: HvfOptions::default(),
        }
    }
}

/// A machine with its threads.
pub(super) struct Vmm {
    pub(super) hv: FakeHv,
    pub(super) crew: Arc<Crew>,
    pub(super) machine: HvfMachine,
    pub(super) handles: Vec<VcpuHandle>,
    /// What the guests made the VMM do.
    pub(super) exits: Arc<Mutex<Vec<(usize, Exit)>>>,
    threads: Vec<JoinHandle<Result<(), HvfError>>>,
}

/// The fake on a host with every feature, at some time.
pub(super) fn host(time: HostTime) -> FakeHv {
    host_like(FakeHv::host_with_everything(), time)
}

pub(super) fn host_like(info: HostInfo, time: HostTime) -> FakeHv {
    let hv = FakeHv::new(info);
    hv.set_time(time);
    hv
}

/// A time in the middle of a day.
pub(super) fn noon() -> HostTime {
    HostTime {
        absolute: 1 << 44,
        wall_ns: 1_700_000_000_000_000_000,
    }
}

/// `MPIDR_EL1` of a vCPU: not its number, as clusters have it.
pub(super) fn mpidr(vcpu: usize) -> u64 {
    let vcpu = u64::try_from(vcpu).unwrap();
    1 << 31 | (vcpu / 2) << 8 | (vcpu % 2)
}

impl Vmm {
    /// A machine whose vCPUs exist and stand still: none has run.
    pub(super) fn new(hv: &FakeHv, shape: &Shape) -> Self {
        Self::with_faults(hv, shape, None)
    }

    pub(super) fn with_faults(hv: &FakeHv, shape: &Shape, faults: Option<&WriteFaults>) -> Self {
        hv.create_vm(VmConfig {
            address_bits: shape.options.address_bits.into(),
            el2: shape.options.el2,
        })
        .unwrap();
        if let Some(gic) = &shape.options.gic {
            hv.create_gic(gic).unwrap();
        }
        let crew = Crew::new(Arc::new(hv.clone()), shape.vcpus);
        crew.meeting().request();
        let exits = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        let mut handles = Vec::new();
        for number in 0..shape.vcpus {
            let (crew, exits, faults) = (crew.clone(), exits.clone(), faults.cloned());
            let (tell, told) = channel();
            threads.push(std::thread::spawn(move || {
                let mut vcpu = HvfVcpu::create(crew.clone(), number, mpidr(number))?;
                if let Some(faults) = faults {
                    vcpu.set_write_faults(faults);
                }
                serve(&crew, number, &mut vcpu, &tell, &exits)
            }));
            handles.push(handle(&told));
        }
        let machine = HvfMachine::new(crew.clone(), shape.options.clone()).unwrap();
        let vmm = Self {
            hv: hv.clone(),
            crew,
            machine,
            handles,
            exits,
            threads,
        };
        vmm.crew
            .meeting()
            .gather(PATIENCE, &mut |vcpu| vmm.crew.kick(vcpu).unwrap())
            .unwrap();
        vmm
    }

    pub(super) fn vcpus(&self) -> HvfVcpus {
        HvfVcpus::new(self.crew.clone(), PATIENCE)
    }

    /// Does something with a vCPU of a machine that stands still, on its thread.
    pub(super) fn on<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce(&FakeHv, VcpuHandle) -> T + Send + 'static,
    ) -> T {
        let (hv, handle) = (self.hv.clone(), self.handles[vcpu]);
        let job = move || job(&hv, handle);
        self.crew.meeting().run_on(vcpu, job).unwrap()
    }

    pub(super) fn register(&self, vcpu: usize, register: Register) -> u64 {
        self.on(vcpu, move |hv, handle| {
            hv.register(handle, register).unwrap()
        })
    }

    pub(super) fn set_register(&self, vcpu: usize, register: Register, value: u64) {
        self.on(vcpu, move |hv, handle| {
            hv.set_register(handle, register, value).unwrap();
        });
    }

    pub(super) fn load(&self, vcpu: usize, steps: Vec<GuestStep>) {
        self.hv.load(self.handles[vcpu], steps).unwrap();
    }

    /// Lets the guest run until the VMM has seen `count` exits in all, and stops it.
    pub(super) fn run_until_exits(&self, count: usize) {
        self.crew.meeting().release();
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.exits.lock().unwrap().len() < count {
            assert!(std::time::Instant::now() < deadline, "{:?}", self.exits());
            std::thread::sleep(Duration::from_micros(200));
        }
        self.vcpus().stop().unwrap();
    }

    /// Stops a machine that runs.
    pub(super) fn vcpus_stop(&self) {
        self.vcpus().stop().unwrap();
    }

    pub(super) fn exits(&self) -> Vec<(usize, Exit)> {
        self.exits.lock().unwrap().clone()
    }

    /// The calls of a vCPU since the record was last forgotten, without its number.
    pub(super) fn calls_of(&self, vcpu: usize) -> Vec<String> {
        let number = self.handles[vcpu].0.to_string();
        let calls = self.hv.calls().into_iter();
        calls
            .filter_map(|call| {
                let mut words = call.splitn(3, ' ');
                let (verb, of, what) = (words.next()?, words.next()?, words.next()?);
                (of == number).then(|| format!("{verb} {what}"))
            })
            .collect()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.crew.end().unwrap();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
        if !std::thread::panicking() {
            self.hv.destroy_vm().unwrap();
        }
    }
}

fn handle(told: &Receiver<VcpuHandle>) -> VcpuHandle {
    told.recv_timeout(PATIENCE).unwrap()
}

/// The loop of a vCPU's thread.
fn serve(
    crew: &Crew,
    number: usize,
    vcpu: &mut HvfVcpu,
    tell: &Sender<VcpuHandle>,
    exits: &Mutex<Vec<(usize, Exit)>>,
) -> Result<(), HvfError> {
    tell.send(vcpu.handle()).unwrap();
    loop {
        let exit = vcpu.run()?;
        match exit {
            Exit::Ended => return Ok(()),
            Exit::Load { .. } => {
                // Asked to stop in the middle of an access: it is answered first.
                let again = vcpu.run();
                assert!(matches!(again, Err(HvfError::ExitPending { .. })));
                vcpu.complete(DEVICE_SAYS)?;
            }
            Exit::Store { .. } => vcpu.complete(0)?,
            Exit::Call => {
                let [function, target, entry, context] =
                    [0, 1, 2, 3].map(|x| vcpu.register(Register::General(x)).unwrap());
                match function {
                    CPU_ON => {
                        let target = usize::try_from(target).unwrap();
                        let answer = crew.turn_on(target, entry, context).code();
                        vcpu.set_register(Register::General(0), answer.cast_unsigned())?;
                    }
                    CPU_OFF => {
                        crew.set_power(number, snapshot_format::state::PowerState::Off);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        exits.lock().unwrap().push((number, exit));
    }
}
