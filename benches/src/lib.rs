//! Corpora that the benchmarks share.
