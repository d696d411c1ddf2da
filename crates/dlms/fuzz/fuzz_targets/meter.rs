//! See `dlms_fuzz::meter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    dlms_fuzz::meter::run(octets);
});
