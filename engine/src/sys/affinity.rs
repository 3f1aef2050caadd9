//! Which cores this process may use, which one a thread runs on, and which thread goes last.

use std::num::NonZero;

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

/// Cores whose time the process may use up: fewer than there are where a quota of its cgroup limits it, as for a container.
#[must_use]
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Whether each shard is to keep to a core of its own. Under a quota no core is ours: engines of several containers would
/// all choose the first ones, and leave the others idle.
#[must_use]
pub fn may_pin(allowed: usize, usable: usize) -> bool {
    usable >= allowed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_leaves_threads_to_the_scheduler() {
        assert!(may_pin(2, 2) && may_pin(1, 1));
        assert!(!may_pin(64, 2));
    }
}
