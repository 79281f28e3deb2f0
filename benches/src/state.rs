//! Suite `state`: the state of a machine with 64 vCPUs, to bytes with digests and back.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use snapshot_format::state::{CpuidEntry, Msr, Registers, VcpuX86, Xcr};
use snapshot_format::{Arch, SectionPayload, SnapshotId, StateFile};

use crate::error::BenchError;
use crate::row::{Case, Row};
use crate::sample::{Contestant, alternate};

const VCPUS: u32 = 64;

/// What a Linux guest has on a host with AVX-512.
const MSRS: u32 = 120;
const CPUID_ENTRIES: u32 = 48;
const XSAVE_BYTES: usize = 4096;
const LAPIC_BYTES: usize = 1024;

/// Runs the suite.
pub(crate) fn run(rounds: NonZeroUsize) -> Result<Vec<Row>, BenchError> {
    let vcpus = machine();
    let bytes = encode(&vcpus);
    if decode(&bytes)? != vcpus {
        return Err(BenchError::StateDiffers);
    }
    let samples = alternate(
        vec![
            Contestant::new("encode-64vcpu", || {
                let start = Instant::now();
                black_box(encode(black_box(&vcpus)));
                Ok(start.elapsed())
            }),
            Contestant::new("decode-64vcpu", || {
                let start = Instant::now();
                let decoded = decode(black_box(&bytes))?;
                let took = start.elapsed();
                drop(decoded);
                Ok(took)
            }),
        ],
        rounds,
        || Ok(()),
    )?;
    let counts = BTreeMap::from([
        ("vcpus".to_owned(), VCPUS.into()),
        ("bytes".to_owned(), bytes.len() as u64),
    ]);
    let rows = samples.iter().flat_map(|ours| {
        let case = Case {
            suite: "state",
            name: ours.name.to_owned(),
            policy: "whole state.vms, BLAKE3 of every section".to_owned(),
            file_system: None,
            counts: counts.clone(),
            figures: BTreeMap::new(),
        };
        case.compare(ours, &[])
    });
    Ok(rows.collect())
}

/// The bytes of the file, digests included.
fn encode(vcpus: &[VcpuX86]) -> Vec<u8> {
    let sections = vcpus.iter().map(|vcpu| SectionPayload::of(vcpu.id, vcpu));
    let file = StateFile {
        id: SnapshotId([7; 16]),
        parent: None,
        arch: Arch::X86_64,
        sections: sections.collect(),
    };
    file.encode()
}

/// The vCPUs in the file, every digest and every rule checked.
fn decode(bytes: &[u8]) -> Result<Vec<VcpuX86>, BenchError> {
    let mut offers = StateFile::offers(bytes)?;
    let vcpus = offers.take_all()?;
    offers.finish()?;
    Ok(vcpus.into_iter().map(|(_, vcpu)| vcpu).collect())
}

/// vCPUs whose values compress as badly as they may.
fn machine() -> Vec<VcpuX86> {
    let mut rng = fastrand::Rng::with_seed(0x57a7e);
    (0..VCPUS).map(|id| vcpu(id, &mut rng)).collect()
}

fn vcpu(id: u32, rng: &mut fastrand::Rng) -> VcpuX86 {
    let bytes = |rng: &mut fastrand::Rng, len| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes
    };
    VcpuX86 {
        id,
        registers: Registers {
            rax: rng.u64(..),
            rbx: rng.u64(..),
            rsp: rng.u64(..),
            rip: rng.u64(..),
            rflags: 2,
            ..Registers::default()
        },
        xcrs: vec![Xcr {
            index: 0,
            value: 0xe7,
        }],
        tsc_khz: 2_600_000,
        tsc_offset: Some(rng.u64(..)),
        cpuid: (0..CPUID_ENTRIES)
            .map(|function| CpuidEntry {
                function,
                eax: rng.u32(..),
                ebx: rng.u32(..),
                ecx: rng.u32(..),
                edx: rng.u32(..),
                ..CpuidEntry::default()
            })
            .collect(),
        msrs: (0..MSRS)
            .map(|index| Msr {
                index: 0xc000_0000 + index,
                value: rng.u64(..),
            })
            .collect(),
        xsave: bytes(rng, XSAVE_BYTES),
        lapic: bytes(rng, LAPIC_BYTES),
        ..VcpuX86::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_comes_back_from_its_bytes() {
        let vcpus = machine();
        assert_eq!(vcpus.len(), 64);
        assert_eq!(decode(&encode(&vcpus)).unwrap(), vcpus);
    }

    #[test]
    fn both_directions_are_reported() {
        let rows = run(NonZeroUsize::MIN).unwrap();
        let rows = serde_json::to_value(rows).unwrap();
        assert_eq!(rows[0]["case"], "encode-64vcpu");
        assert_eq!(rows[1]["case"], "decode-64vcpu");
        assert!(rows[0]["bytes"].as_u64().unwrap() > 64 * (4096 + 1024));
    }
}
