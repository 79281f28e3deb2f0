//! Version 1 of the payloads of interrupt controllers. Frozen: a change is version 2.

use super::{
    BankedRegister, GicBlob, GicRegister, GicV2, GicV3, GicV3Config, Its, MsiFrame, Redistributor,
    RedistributorRegion,
};
use crate::state::mirror::wire;

wire! {
    struct GicRegisterV1 for GicRegister {
        offset: u32,
        value: u64,
    }

    struct RedistributorRegionV1 for RedistributorRegion {
        base: u64,
        count: u32,
    }

    struct MsiFrameV1 for MsiFrame {
        base: u64,
        first_interrupt: u32,
        count: u32,
    }

    struct GicV3ConfigV1 for GicV3Config {
        implementer: u32,
        interrupts: u32,
        distributor_base: u64,
        redistributors: Vec<RedistributorRegionV1>,
        msi: Option<MsiFrameV1>,
    }

    struct RedistributorV1 for Redistributor {
        mpidr: u64,
        registers: Vec<GicRegisterV1>,
        lines: u32,
    }

    struct ItsV1 for Its {
        base: u64,
        registers: Vec<GicRegisterV1>,
    }

    struct GicV3V1 for GicV3 {
        config: GicV3ConfigV1,
        distributor: Vec<GicRegisterV1>,
        redistributors: Vec<RedistributorV1>,
        lines: Vec<u32>,
        its: Vec<ItsV1>,
    }

    struct BankedRegisterV1 for BankedRegister {
        vcpu: u32,
        offset: u32,
        value: u32,
    }

    struct GicV2V1 for GicV2 {
        implementer: u32,
        interrupts: u32,
        distributor_base: u64,
        interface_base: u64,
        distributor: Vec<GicRegisterV1>,
        banked: Vec<BankedRegisterV1>,
        interfaces: Vec<BankedRegisterV1>,
    }

    struct GicBlobV1 for GicBlob {
        hypervisor: u16,
        producer: String,
        version: String,
        bytes: Vec<u8>,
    }
}
