//! What the parts of a restore cost.

use serde::{Deserialize, Serialize};

/// Measured costs of the parts of a restore, in nanoseconds; pages are of 4096 bytes and in the page
/// cache. `specs/18-restore-plan.md` says how the defaults were measured, and with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RestoreCosts {
    /// Reading and checking one leaf of the flattened map, with the leaf of the index that says where
    /// its pages are.
    pub map_leaf_ns: u64,
    /// Mapping one run of a file over memory.
    pub map_run_ns: u64,
    /// The first touch of a page of a mapped file, in random order: the kernel maps those around it
    /// as well.
    pub map_touch_ns: u64,
    /// Making a server ready.
    pub serve_start_ns: u64,
    /// A fault that waits for a server, without bringing pages.
    pub serve_fault_ns: u64,
    /// Reading, checking and placing one page of the window around a fault.
    pub serve_page_ns: u64,
    /// Pages of the window around a fault.
    pub serve_window_pages: u64,
    /// Reading, checking and placing one page of a recorded working set.
    pub replay_page_ns: u64,
    /// Reading and checking one page.
    pub check_page_ns: u64,
    /// Reading and checking one page, and copying it to fresh memory on small pages.
    pub copy_page_ns: u64,
    /// The same, on huge pages.
    pub copy_huge_page_ns: u64,
    /// The same, into a memfd.
    pub fill_page_ns: u64,
    /// Bytes that a guest is taken to touch at first where no working set is recorded.
    pub assumed_working_set_bytes: u64,
}

/// Those of a virtual machine of two cores, ext4, Linux 6.18.
impl Default for RestoreCosts {
    fn default() -> Self {
        Self {
            map_leaf_ns: 100_000,
            map_run_ns: 5_000,
            map_touch_ns: 160,
            serve_start_ns: 40_000,
            serve_fault_ns: 50_000,
            serve_page_ns: 2_600,
            serve_window_pages: 16,
            replay_page_ns: 5_000,
            check_page_ns: 1_500,
            copy_page_ns: 5_400,
            copy_huge_page_ns: 2_200,
            fill_page_ns: 5_600,
            assumed_working_set_bytes: 64 << 20,
        }
    }
}
