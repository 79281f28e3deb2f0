//! What a fault of served memory costs: the first one after a restore, and those that follow.
//!
//! `cargo run --release -p snapshot-memory --example served_faults [FOLDER]`: snapshots are put into
//! a temporary folder there.

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageIndex, PageRange, VmName};
    use snapshot_memory::backend::FsBackend;
    use snapshot_memory::{
        Background, DirectorySink, LazyMemory, LazyOptions, MappedMemory, MappingOptions,
        MemoryImage, Pages, PublishedSnapshot, ServeOptions, SharedPages, SnapshotSink, Stability,
    };

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    /// A generator of page numbers and contents: SplitMix64.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        }
    }

    /// A snapshot of `bytes` of memory, of which the last `data` are not zero.
    fn snapshot(folder: &tempfile::TempDir, bytes: u64, data: u64) -> Result<Arc<MemoryImage>> {
        let memory = MappedMemory::new(MemoryLayout::single(bytes)?, MappingOptions::default())?;
        let mut numbers = Numbers(bytes);
        let mut page = vec![0; 4096];
        for at in (bytes - data..bytes).step_by(4096) {
            for word in page.chunks_exact_mut(8) {
                word.copy_from_slice(&numbers.next().to_le_bytes());
            }
            memory.write(at, &page)?;
        }
        let backend = Arc::new(FsBackend::open(folder.path())?);
        let mut sink = DirectorySink::new(backend.clone(), VmName::new("vm")?, Arch::host());
        let mut staged = sink.begin()?;
        staged.memory(&memory, Pages::Full, Stability::Paused)?;
        let published = staged.seal()?.publish()?;
        let opened = PublishedSnapshot::open(&*backend, published.snapshot.id)?;
        Ok(Arc::new(opened.image(&*backend)?))
    }

    fn median(mut times: Vec<Duration>) -> (f64, f64) {
        times.sort();
        let at = |share: usize| {
            let time = times.get((times.len() - 1) * share / 100);
            time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        (at(50), at(99))
    }

    fn row(name: &str, times: Vec<Duration>) {
        let count = times.len();
        let (p50, p99) = median(times);
        println!("{name:44} {p50:9.1} µs  p99 {p99:9.1} µs  of {count}");
    }

    /// In MB a second.
    fn rate(bytes: u64, time: Duration) -> u128 {
        u128::from(bytes) / time.as_micros().max(1)
    }

    /// From nothing to the first byte read.
    fn first_read(image: &Arc<MemoryImage>, bytes: u64, tracks: bool) -> Result<()> {
        let (mut made, mut read) = (Vec::new(), Vec::new());
        for round in 0..41 {
            let options = LazyOptions::new(ServeOptions::new(1)).tracks(tracks);
            let start = Instant::now();
            let memory = LazyMemory::restore(image.clone(), options)?;
            made.push(start.elapsed());
            let mut word = [0; 8];
            memory
                .memory()
                .read(bytes - (1 + round * 31) * PAGE_BYTES, &mut word)?;
            read.push(start.elapsed());
        }
        let mib = bytes >> 20;
        row(&format!("{mib} MiB tracks={tracks}: restore call"), made);
        row(
            &format!("{mib} MiB tracks={tracks}: to the first read"),
            read,
        );
        Ok(())
    }

    /// Every fault by itself, at random.
    fn faults(image: &Arc<MemoryImage>, name: &str, options: LazyOptions, data: u64) -> Result<()> {
        let memory = LazyMemory::restore(image.clone(), options)?;
        let total = image.layout().len_bytes();
        let mut numbers = Numbers(7);
        let mut times = Vec::new();
        let whole = Instant::now();
        for _ in 0..4000 {
            let page = numbers.next() % (data / PAGE_BYTES);
            let before = memory.server().stats().faults;
            let start = Instant::now();
            let mut word = [0; 8];
            memory
                .memory()
                .read(total - data + page * PAGE_BYTES, &mut word)?;
            let time = start.elapsed();
            if memory.server().stats().faults > before {
                times.push(time);
            }
        }
        let whole = whole.elapsed().as_secs_f64() * 1e3;
        row(&format!("{name} ({whole:.1} ms for 4000 reads)"), times);
        Ok(())
    }

    /// All of the data, in order.
    fn scan(image: &Arc<MemoryImage>, name: &str, options: LazyOptions, data: u64) -> Result<()> {
        let memory = LazyMemory::restore(image.clone(), options)?;
        let total = image.layout().len_bytes();
        let start = Instant::now();
        let mut word = [0; 8];
        for at in (total - data..total).step_by(4096) {
            memory.memory().read(at, &mut word)?;
        }
        let rate = rate(data, start.elapsed());
        let faults = memory.server().stats().faults;
        println!("{name:44} {rate:9} MB/s, {faults} faults");
        Ok(())
    }

    fn prefetch(image: &Arc<MemoryImage>, data: u64, chunk: u64, shared: bool) -> Result<()> {
        let options = LazyOptions::new(ServeOptions::new(1));
        let memory = if shared {
            LazyMemory::share(SharedPages::new(image.clone())?, options)?
        } else {
            LazyMemory::restore(image.clone(), options)?
        };
        let first = (image.layout().len_bytes() - data) / PAGE_BYTES;
        let mut bytes = vec![0; usize::try_from(data)?];
        image.read_pages(
            PageRange {
                start: PageIndex(first),
                count: data / PAGE_BYTES,
            },
            &mut bytes,
        )?;
        let start = Instant::now();
        for (n, bytes) in bytes.chunks(usize::try_from(chunk)?).enumerate() {
            let pages = bytes.len() as u64 / PAGE_BYTES;
            let at = first + n as u64 * chunk / PAGE_BYTES;
            memory.server().prefetch(PageRange::new(at, pages), bytes)?;
        }
        let rate = rate(data, start.elapsed());
        println!(
            "prefetch by {:5} KiB, shared={shared}: {rate} MB/s",
            chunk >> 10
        );
        Ok(())
    }

    fn clones(image: &Arc<MemoryImage>, data: u64) -> Result<()> {
        let pages = SharedPages::new(image.clone())?;
        let total = image.layout().len_bytes();
        let options = LazyOptions::new(ServeOptions::new(1));
        for round in 0..3 {
            let start = Instant::now();
            let clone = LazyMemory::share(pages.clone(), options)?;
            let made = start.elapsed();
            let mut word = [0; 8];
            clone.memory().read(total - PAGE_BYTES, &mut word)?;
            let first = start.elapsed();
            for at in (total - data..total).step_by(4096) {
                clone.memory().read(at, &mut word)?;
            }
            println!(
                "clone {round}: made {made:?}, first read {first:?}, all {:?}",
                start.elapsed()
            );
        }
        Ok(())
    }

    pub(super) fn run() -> Result<()> {
        let base = std::env::args_os()
            .nth(1)
            .map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::tempdir_in(base)?;
        let data = 128 << 20;
        for mib in [256, 1024, 8192] {
            let bytes = mib << 20;
            let image = snapshot(&folder, bytes, data)?;
            for tracks in [false, true] {
                first_read(&image, bytes, tracks)?;
            }
        }
        let image = snapshot(&folder, 1 << 30, data)?;
        for kib in [4, 16, 64, 128, 256] {
            let serve = ServeOptions::new(1).window_bytes(kib << 10);
            faults(
                &image,
                &format!("random, window {kib} KiB"),
                LazyOptions::new(serve),
                data,
            )?;
        }
        let huge = ServeOptions::new(1).huge_pages(true);
        let huge = LazyOptions::new(huge).mapping(MappingOptions::default().huge_pages(true));
        faults(&image, "random, huge pages", huge, data)?;
        let small = ServeOptions::new(1).window_bytes(2 << 20);
        faults(
            &image,
            "random, window 2 MiB",
            LazyOptions::new(small),
            data,
        )?;
        let spin = ServeOptions::new(1).spin(Duration::from_micros(200));
        faults(
            &image,
            "random, window 64 KiB, spin 200 µs",
            LazyOptions::new(spin),
            data,
        )?;
        let two = ServeOptions::new(2);
        faults(
            &image,
            "random, window 64 KiB, 2 threads",
            LazyOptions::new(two),
            data,
        )?;
        for threads in [1, 2] {
            let filled = ServeOptions::new(threads).background(Background::default());
            let name = format!("random, background, {threads} threads");
            faults(&image, &name, LazyOptions::new(filled), data)?;
        }
        for kib in [4, 64, 256, 1024] {
            let serve = ServeOptions::new(1).window_bytes(kib << 10);
            scan(
                &image,
                &format!("in order, window {kib} KiB"),
                LazyOptions::new(serve),
                data,
            )?;
        }
        for chunk in [64 << 10, 256 << 10, 1 << 20] {
            prefetch(&image, data, chunk, false)?;
            prefetch(&image, data, chunk, true)?;
        }
        clones(&image, data)
    }
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    linux::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("memory is served on Linux only");
}
