//! See `dlms_fuzz::hdlc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| dlms_fuzz::hdlc::run(octets));
