//! Dumps of any bytes, with tables in them that begin anywhere, through everything that slat-inspect does with tables.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slat_inspect::cli::fuzz(data));
