//! Sequences of operations, beside the model of the hardware and the specification.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(failure) = slat_check::fuzz::operations(data) {
        panic!("{failure}");
    }
});
