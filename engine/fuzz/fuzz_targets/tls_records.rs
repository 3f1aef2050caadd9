//! Records of a TLS client, whole, damaged and made up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::fuzz::tls_records(data));
