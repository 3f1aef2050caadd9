//! Which cores this process may use, which one a thread runs on, and which thread goes last.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// As nice as can be.
const LOWEST_PRIORITY: i32 = 19;

/// The cores that this process may use, by number; at least one.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Gives the calling thread the lowest priority; where nothing else is said, the disk's goes by it.
pub fn yield_to_others() {
    // Of one process the kernel takes the calling thread, and lower is always allowed.
    let _lowered = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
}

/// Keeps the calling thread on one core. A refusal leaves it where the scheduler puts it.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _pinned = sched_setaffinity(None, &set);
}
