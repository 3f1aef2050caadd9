//! Memory and descriptors of an engine over its life.
//!
//! ```text
//!  ├── warm-up: half ──┼─ before: a quarter ─┼─ after: a quarter ─┤      the most of either is compared
//! ```

use crate::support::process::Engine;

/// How much more the engine may hold at the end of its life than after the warm-up.
pub const MEMORY_TOLERANCE_KIB: u64 = 16 * 1024;
/// The same for descriptors.
pub const DESCRIPTORS_TOLERANCE: u64 = 16;

/// What an engine held at some moments.
#[derive(Debug, Default)]
pub struct Watch(Vec<[u64; 2]>);

/// The most before and after.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    pub memory_kib: [u64; 2],
    pub descriptors: [u64; 2],
}

impl Watch {
    /// Looks at it.
    pub fn look(&mut self, engine: &Engine) {
        self.0.push([engine.resident_kib(), engine.descriptors() as u64]);
    }

    /// What it has become.
    pub fn growth(&self) -> Growth {
        let warm = &self.0[self.0.len() / 2..];
        let (before, after) = warm.split_at(warm.len() / 2);
        assert!(!before.is_empty(), "{} looks are too few", self.0.len());
        let most = |of: usize| [before, after].map(|looks| looks.iter().map(|look| look[of]).max().unwrap());
        Growth { memory_kib: most(0), descriptors: most(1) }
    }
}

impl Growth {
    /// Neither has grown.
    pub fn assert_flat(&self) {
        let [before, after] = self.memory_kib;
        assert!(after <= before + MEMORY_TOLERANCE_KIB, "memory grows: {before} KiB, then {after} KiB");
        let [before, after] = self.descriptors;
        assert!(after <= before + DESCRIPTORS_TOLERANCE, "descriptors grow: {before}, then {after}");
    }
}
