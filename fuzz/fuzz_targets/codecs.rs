//! Entries of any bits, through the codec of every format.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slat_check::fuzz::codecs(data));
