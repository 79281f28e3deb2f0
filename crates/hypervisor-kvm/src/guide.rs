//! How an existing VMM on kvm-ioctls is wired to these crates, in less than a hundred lines.
//!
//! Five things are to be done; `tinyvm` does them in the same way, with more devices.
//!
//! 1. **Each vCPU's thread**, which waits at first, looks at a [`Rendezvous`](hypervisor_bridge::Rendezvous) before it
//!    enters the guest. When it is asked for, it completes the exit that it is in
//!    ([`complete_pending_exit`](crate::complete_pending_exit)) and waits. A signal without
//!    `SA_RESTART` makes it leave the guest.
//! 2. **Devices** say their state, as bytes of their own, while nothing runs.
//! 3. **Dirty pages** come from a source for each writer: [`KvmDirtyLog`](crate::KvmDirtyLog) or a
//!    dirty ring for the vCPUs, [`VmmWrites`](snapshot_memory::VmmWrites) for the VMM's own.
//! 4. **A snapshot** goes to a [`SnapshotSink`](snapshot_memory::SnapshotSink): here a plain
//!    directory, without a store. The second one is a diff, because the tracker knows the first.
//! 5. **A restore** is into a machine of the same shape whose vCPUs have never run. Whoever restores
//!    says whether it is the machine that goes on, or a clone with an identity of its own.
//!
//! Nothing here needs a path: [`FsBackend::from_fd`](snapshot_memory::backend::FsBackend::from_fd)
//! takes a descriptor. `syscalls` of each crate lists what a filter must allow.
//!
//! The guest counts, and says each number at a port; that it goes on with the next one shows that
//! nothing was lost, and that nothing was done twice. What begins with the words "your VMM" is left
//! out: opening KVM, memory, slots, registers.
//!
//! ```
//! # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
//! # mod guide {
//! use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
//! use std::thread::{self, JoinHandle};
//! use std::{io, sync::Arc, time::Duration};
//!
//! use hypervisor_bridge::*;
//! use hypervisor_kvm::*;
//! use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
//! use snapshot_format::{Arch, MemoryLayout, SnapshotId, VmName, state::DeviceState};
//! use snapshot_memory::{backend::FsBackend, *};
//! # use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
//! # use std::os::unix::thread::JoinHandleExt;
//! #
//! # pub struct Vm { kvm: Kvm, fd: VmFd, vcpus: Vec<OwnedFd>, memory: MappedMemory, slot: MemorySlot }
//! #
//! # extern "C" fn nothing(_: libc::c_int) {}
//! #
//! # fn kick<T>(thread: &JoinHandle<T>) {
//! #     let action = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
//! #     let mut without_restart: libc::sigaction = unsafe { std::mem::zeroed() };
//! #     without_restart.sa_sigaction = action;
//! #     unsafe { libc::sigaction(libc::SIGUSR1, &without_restart, std::ptr::null_mut()) };
//! #     unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
//! # }
//! #
//! # fn duplicate(fd: &impl AsRawFd) -> OwnedFd {
//! #     unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }.try_clone_to_owned().unwrap()
//! # }
//! #
//! # pub fn your_vm(kvm: Kvm) -> (Vm, Vec<VcpuFd>) {
//! #     let fd = kvm.create_vm().unwrap();
//! #     let layout = MemoryLayout::single(1 << 20).unwrap();
//! #     let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
//! #     let host_address = memory.base().addr().get() as u64;
//! #     let slot = MemorySlot { slot: 0, flags: 0, guest_address: 0, len_bytes: 1 << 20, host_address };
//! #     let region = kvm_bindings::kvm_userspace_memory_region {
//! #         memory_size: slot.len_bytes, userspace_addr: host_address, ..Default::default()
//! #     };
//! #     unsafe { fd.set_user_memory_region(region) }.unwrap();
//! #     fd.set_tss_address(0xfffb_d000).unwrap();
//! #     fd.create_irq_chip().unwrap();
//! #     fd.create_pit2(Default::default()).unwrap();
//! #     let vcpu = fd.create_vcpu(0).unwrap();
//! #     vcpu.set_cpuid2(&kvm.get_supported_cpuid(80).unwrap()).unwrap();
//! #     let vcpus = vec![duplicate(&vcpu)];
//! #     (Vm { kvm, fd, vcpus, memory, slot }, vec![vcpu])
//! # }
//! #
//! # /// In real mode at 0x1000: inc byte [0x2000]; mov al, [0x2000]; out 0x10, al; jmp back.
//! # pub fn boot(vm: &Vm, vcpu: &VcpuFd) {
//! #     let program = [0xfe, 0x06, 0x00, 0x20, 0xa0, 0x00, 0x20, 0xe6, 0x10, 0xeb, 0xf5];
//! #     vm.memory.write(0x1000, &program).unwrap();
//! #     let mut sregs = vcpu.get_sregs().unwrap();
//! #     (sregs.cs.base, sregs.cs.selector) = (0, 0);
//! #     vcpu.set_sregs(&sregs).unwrap();
//! #     let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, ..Default::default() };
//! #     vcpu.set_regs(&regs).unwrap();
//! # }
//! #
//! /// The device: it remembers the last number.
//! #[derive(Clone, Default)]
//! pub struct Port(pub Arc<AtomicU8>);
//!
//! /// 1. A vCPU and what handles its exits. Lives on the vCPU's thread.
//! struct Vcpu(VcpuFd, Port);
//!
//! impl EnterVcpu for Vcpu {
//!     fn set_immediate_exit(&mut self, on: bool) { self.0.set_kvm_immediate_exit(on.into()); }
//!
//!     fn enter(&mut self) -> io::Result<Entered> {
//!         match self.0.run() {
//!             Ok(VcpuExit::IoOut(0x10, number)) => self.1.0.store(number[0], SeqCst),
//!             Ok(exit) => return Err(io::Error::other(format!("{exit:?}"))),
//!             // EAGAIN: the vCPU waits to be started by another one.
//!             Err(e) if [libc::EINTR, libc::EAGAIN].contains(&e.errno()) => return Ok(Entered::Interrupted),
//!             Err(e) => return Err(e.into()),
//!         }
//!         Ok(Entered::Exit)
//!     }
//! }
//!
//! pub struct Threads { meeting: Arc<Rendezvous>, ended: Arc<AtomicBool>, handles: Vec<JoinHandle<()>> }
//!
//! impl Threads {
//!     pub fn start(vcpus: Vec<VcpuFd>, port: &Port) -> Self {
//!         let (meeting, ended) = (Arc::new(Rendezvous::new(vcpus.len())), Arc::default());
//!         meeting.request();
//!         let handles = vcpus.into_iter().enumerate().map(|(index, vcpu)| {
//!             let (mut vcpu, meeting, ended) = (Vcpu(vcpu, port.clone()), meeting.clone(), Arc::clone(&ended));
//!             thread::spawn(move || while !AtomicBool::load(&ended, SeqCst) {
//!                 if meeting.is_requested() {
//!                     complete_pending_exit(index, &mut vcpu).expect("the exit is completed");
//!                     meeting.wait(index);
//!                 } else {
//!                     vcpu.enter().expect("the exit is handled");
//!                 }
//!             })
//!         });
//!         Self { handles: handles.collect(), meeting, ended }
//!     }
//! #
//! #   pub fn end(mut self) {
//! #       self.stop().expect("the vCPUs stop");
//! #       self.ended.store(true, SeqCst);
//! #       self.meeting.release();
//! #       self.handles.drain(..).for_each(|thread| thread.join().expect("the thread ends"));
//! #   }
//! }
//!
//! impl VcpuStop for Threads {
//!     fn stop(&mut self) -> Result<Paused, StepError> {
//!         self.meeting.gather(Duration::from_secs(10), &mut |vcpu| kick(&self.handles[vcpu]))?;
//!         // SAFETY: all threads wait in the meeting, and only `resume` lets them go on.
//!         Ok(unsafe { Paused::promise() })
//!     }
//!
//!     fn resume(&mut self) -> Result<(), StepError> { Ok(self.meeting.release()) }
//! }
//!
//! /// 2. The devices.
//! impl Devices for Port {
//!     fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> { Ok(()) }
//!
//!     fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
//!         let bytes = vec![self.0.load(SeqCst)];
//!         Ok(vec![DeviceState { kind: "port".to_owned(), instance: 0, version: 1, bytes }])
//!     }
//!
//!     fn resume(&mut self) -> Result<(), StepError> { Ok(()) }
//! }
//!
//! impl DeviceRestore for Port {
//!     fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
//!         let [DeviceState { bytes, .. }] = devices.as_slice() else { return Err("one device".into()) };
//!         self.0.store(*bytes.first().ok_or("one byte")?, SeqCst);
//!         Ok(())
//!     }
//! }
//!
//! impl Vm {
//!     fn state(&self) -> Result<KvmMachine<'_>, KvmError> {
//!         // SAFETY: the descriptors are what they are passed as; used while the vCPUs are stopped.
//!         let handles = unsafe { Handles::from_raw(&self.kvm, &self.fd, &self.vcpus) };
//!         KvmMachine::new(handles, KvmOptions::new(KernelDevices::ALL))
//!     }
//!
//!     /// 3. Who writes memory: the vCPUs. This VMM writes none itself once they run.
//!     pub fn tracker(&self) -> Result<DirtyTracker, StepError> {
//!         let (layout, mode) = (self.memory.layout().clone(), DirtyLogMode::GetAndClear);
//!         // SAFETY: the slot was registered with exactly these values.
//!         let log = unsafe { KvmDirtyLog::new(duplicate(&self.fd), layout.clone(), &[self.slot], mode)? };
//!         Ok(DirtyTracker::new(layout, vec![Box::new(log)])?)
//!     }
//!
//!     /// 4. Freezes the machine to disk; it runs on.
//!     pub fn snapshot(&self, vcpus: &mut Threads, port: &mut Port, sink: &mut DirectorySink,
//!                     selection: Selection<'_>) -> Result<SnapshotId, StepError> {
//!         let machine = Machine { vcpus, devices: port, state: &mut self.state()?, memory: &self.memory };
//!         let request = SnapshotRequest { sink, selection, cancel: &Cancel::default(), room_bytes: None };
//!         Ok(snapshot(machine, request)?.published.snapshot.id)
//!     }
//!
//!     /// 5. Brings it back into this machine, whose vCPUs have not run.
//!     pub fn restore(&self, port: &mut Port, backend: &FsBackend, id: SnapshotId) -> Result<RestoreOutcome, StepError> {
//!         let found = PublishedSnapshot::open(backend, id)?;
//!         let image = found.image(backend)?;
//!         let read: &mut PageReader<'_> = &mut |pages, out| Ok(image.read_pages(pages, out)?);
//!         let memory = &mut CopiedMemory { memory: &self.memory, read };
//!         let target = RestoreTarget { memory, state: &mut self.state()?, devices: port };
//!         Ok(Restore::resume(ClockPolicy::Frozen).run(target, found.state(backend)?)?)
//!     }
//! }
//! # }
//! # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
//! # fn main() -> Result<(), hypervisor_bridge::StepError> {
//! # use std::sync::atomic::Ordering::SeqCst;
//! # use std::sync::Arc;
//! # use guide::*;
//! # use hypervisor_bridge::{Selection, VcpuStop};
//! # use snapshot_memory::{DirectorySink, backend::FsBackend};
//! # let Ok(kvm) = kvm_ioctls::Kvm::new() else { return Ok(()) };
//! # fn wait(port: &Port, more: u8) {
//! #     let (from, started) = (port.0.load(SeqCst), std::time::Instant::now());
//! #     while port.0.load(SeqCst).wrapping_sub(from) < more {
//! #         assert!(started.elapsed().as_secs() < 120, "the guest stands still");
//! #         std::thread::yield_now();
//! #     }
//! # }
//! # fn enter(vcpu: &mut kvm_ioctls::VcpuFd, expected: u8) -> bool {
//! #     match vcpu.run() {
//! #         Ok(kvm_ioctls::VcpuExit::IoOut(0x10, number)) => { assert_eq!(number, [expected]); true }
//! #         Err(error) if error.errno() == libc::EINTR => false,
//! #         exit => panic!("{exit:?}"),
//! #     }
//! # }
//! # let folder = std::env::temp_dir().join(format!("hypervisor-kvm-guide-{}", std::process::id()));
//! # let backend = Arc::new(FsBackend::create(&folder)?);
//! # let name = snapshot_format::VmName::new("guide")?;
//! # let mut sink = DirectorySink::new(backend.clone(), name, snapshot_format::Arch::host());
//! # let (vm, vcpus) = your_vm(kvm);
//! # boot(&vm, &vcpus[0]);
//! # let mut port = Port::default();
//! # let mut threads = Threads::start(vcpus, &port);
//! # let tracker = vm.tracker()?;
//! # let (tracker, consumer) = (&tracker, tracker.subscribe(None));
//! # threads.resume()?;
//! # wait(&port, 5);
//! # let full = vm.snapshot(&mut threads, &mut port, &mut sink, Selection::FullTracked { tracker, consumer })?;
//! # wait(&port, 5);
//! # let diff = vm.snapshot(&mut threads, &mut port, &mut sink, Selection::Diff { tracker, consumer })?;
//! # threads.end();
//! # for id in [full, diff] {
//! #     let (vm, mut vcpus) = your_vm(kvm_ioctls::Kvm::new()?);
//! #     let mut port = Port::default();
//! #     vm.restore(&mut port, &backend, id)?;
//! #     let last = port.0.load(SeqCst);
//! #     // What the kernel still does for this thread may interrupt an entry, as a signal does.
//! #     while !enter(&mut vcpus[0], last.wrapping_add(1)) {}
//! # }
//! # std::fs::remove_dir_all(folder)?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
//! # fn main() {}
//! ```
//!
//! A machine that is to start within a millisecond registers its memory slots *before* it creates interrupt
//! controllers, with `KVM_MEM_LOG_DIRTY_PAGES` set if they will be logged: after them, adding a slot or changing its
//! flags waits for the readers of the interrupt routing, which takes 4 to 7 ms each time (Linux 6.18).
//!
//! What a VMM adds for its own sake: `Devices::quiesce` drains queues in flight; a dirty source for
//! vhost-user and other writers that KVM does not see; `Restore::clone_of` for fan-out; the outcome
//! of each call, which says where the time went.

#[cfg(test)]
mod tests {
    /// The lines of the example that a reader sees.
    fn shown() -> usize {
        let text = include_str!("guide.rs").split("//! ```").nth(1);
        let lines = text.unwrap_or_default().lines().skip(1);
        let lines = lines.map(|line| line.trim_start_matches("//!").trim());
        lines
            .filter(|line| !line.is_empty() && !line.starts_with("# ") && *line != "#")
            .count()
    }

    #[test]
    fn the_wiring_has_less_than_a_hundred_lines() {
        let shown = shown();
        assert!((50..100).contains(&shown), "{shown} lines");
    }
}
