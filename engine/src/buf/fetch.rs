//! Memory is asked for before it is needed.
//!
//! A store to memory that is in no cache takes its place in a short queue, and once that is full everything waits. Who knows
//! early where it is going to write says so here. A hint: without it, or on other processors, all is the same but slower.

#![allow(unsafe_code, reason = "the instruction that fetches takes a pointer")]

use std::mem::MaybeUninit;

const CACHE_LINE: usize = 64;
/// Of more than this the rest follows by itself: the processor sees that lines come in order.
const FETCHED_BYTES_MAX: usize = 8 * CACHE_LINE;

/// Fetches the first `bytes` of the memory, to be written.
#[inline]
pub(super) fn fetch_for_write(memory: &mut [MaybeUninit<u8>], bytes: usize) {
    let bytes = bytes.min(FETCHED_BYTES_MAX).min(memory.len());
    for line in memory[..bytes].chunks(CACHE_LINE) {
        fetch_line(line);
    }
}

#[inline]
fn fetch_line(line: &[MaybeUninit<u8>]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: the instruction, which every x86_64 has, accesses nothing: it is a hint that no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
