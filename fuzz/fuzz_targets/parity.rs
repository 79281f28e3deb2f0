#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snapshot_checks::fuzz::fuzz_parity(bytes));
