//! See `dlms_fuzz::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    dlms_fuzz::client::run(octets);
});
