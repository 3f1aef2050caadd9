//! PROXY headers, against a reader that has them in one piece.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::fuzz::proxy_header(data));
