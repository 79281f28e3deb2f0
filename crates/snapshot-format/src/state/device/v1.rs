//! Version 1 of the device payload. Frozen: a change is version 2.

use super::DeviceState;
use crate::state::mirror::wire;

wire! {
    struct DeviceV1 for DeviceState {
        kind: String,
        instance: u32,
        version: u32,
        bytes: Vec<u8>,
    }
}
