//! See `dlms_fuzz::decode`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| dlms_fuzz::decode::run(octets));
