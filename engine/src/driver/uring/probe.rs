//! Whether this host lets the driver work, asked feature by feature before anything else is touched. `engine run` and
//! `engine doctor` ask here, so that they agree.
//!
//! **Memory lock.** Newer kernels charge what a ring shares with the kernel to the user's memlock limit, unless the process
//! has `CAP_IPC_LOCK`. A ring of [`SUBMISSION_ENTRIES`] and [`COMPLETION_ENTRIES`] costs 136 KiB, its two
//! buffer rings 4 KiB each (measured on Linux 6.18 by lowering the limit until each is refused), so 56 shards fit the usual
//! 8 MiB.

use std::io;

use io_uring::{IoUring, Probe};

use super::recv_ring::{BUFFER_GROUP, DATAGRAM_GROUP, RecvRing};
use super::{OPERATIONS, build_ring, enable};
use crate::error::StartError;
use crate::limits::{COMPLETION_ENTRIES, RECV_BUFFERS, SUBMISSION_ENTRIES, UDP_BUFFERS};

const SUBJECT: &str = "io_uring";
/// Receive buffers of a ring that receives nothing: as small as an arena allows.
const PROBE_BUFFER_BYTES: usize = 4096;
const PAGE_BYTES: u64 = 4096;

/// Memory of one shard's ring that counts against the memlock limit, in bytes: the submission entries (64 each), the two
/// queues with their heads (16 a completion, 4 a submission), and the rings of buffers for connections and datagrams (16 a buffer);
/// whole pages.
pub const RING_LOCKED_BYTES: u64 = pages(64 * SUBMISSION_ENTRIES as u64)
    + pages(16 * COMPLETION_ENTRIES as u64 + 4 * SUBMISSION_ENTRIES as u64 + 64)
    + pages(16 * RECV_BUFFERS as u64)
    + pages(16 * UDP_BUFFERS as u64);

/// Something that the driver asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// For people.
    pub name: &'static str,
    /// Whether this kernel has it.
    pub present: bool,
}

/// Makes a ring like a shard's and looks whether the kernel knows all that the driver asks of it.
///
/// # Errors
/// What is missing, and its remedy.
pub fn probe() -> Result<(), StartError> {
    let features = features()?;
    let missing: Vec<_> = features.iter().filter(|feature| !feature.present).map(|feature| feature.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StartError::new(SUBJECT, format!("this kernel lacks {}; use Linux 6.1 or newer", missing.join(", "))))
}

/// Every feature that the driver needs, asked of a ring that is set up as a shard's is, to the end.
///
/// # Errors
/// The ring is refused as a whole, or cannot be asked.
pub fn features() -> Result<Vec<Feature>, StartError> {
    let ring = build_ring().map_err(refused)?;
    let mut known = Probe::new();
    let asked = ring.submitter().register_probe(&mut known);
    asked.map_err(|error| {
        StartError::new(SUBJECT, "cannot be asked for its features; use Linux 6.1 or newer").because(error)
    })?;
    let (ext_arg, nodrop) = (ring.params().is_feature_ext_arg(), ring.params().is_feature_nodrop());
    let operations = OPERATIONS.map(|(code, name)| Feature { name, present: known.is_supported(code) });
    let mut features = operations.to_vec();
    features.extend([
        Feature { name: "wait with a timeout", present: ext_arg },
        Feature { name: "completions that are never dropped", present: nodrop },
    ]);
    let mut buffers = Vec::new();
    let registered = register_buffers(&ring, &mut buffers);
    let complete = registered.is_ok() && features.iter().all(|feature| feature.present);
    let enabled = if complete { enable(&ring) } else { Ok(()) };
    // Before the buffers that it knows.
    drop(ring);
    features.push(Feature { name: "receive buffers chosen by the kernel", present: are_known(registered)? });
    enabled.map_err(refused)?;
    Ok(features)
}

fn are_known(registered: io::Result<()>) -> Result<bool, StartError> {
    match registered {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

/// Registers what a shard registers. The ring must be dropped before `buffers`.
fn register_buffers(ring: &IoUring, buffers: &mut Vec<RecvRing>) -> io::Result<()> {
    for (group, count) in [(BUFFER_GROUP, RECV_BUFFERS), (DATAGRAM_GROUP, UDP_BUFFERS)] {
        buffers.push(RecvRing::register(&ring.submitter(), group, count, PROBE_BUFFER_BYTES)?);
    }
    Ok(())
}

/// Makes the rings of this many shards at once, and lets them go again.
///
/// # Errors
/// How many could be made, and why no more.
pub fn rings_of(shards: usize) -> Result<(), (usize, StartError)> {
    // Rings are dropped before the buffers that they know.
    let (mut rings, mut buffers) = (Vec::new(), Vec::new());
    let result = (0..shards).try_for_each(|made| {
        let refused = |error| (made, refused(error));
        rings.push(build_ring().map_err(refused)?);
        register_buffers(&rings[made], &mut buffers).map_err(refused)
    });
    drop(rings);
    drop(buffers);
    result
}

/// Why a ring, or its memory, was refused.
#[must_use]
pub fn refused(error: io::Error) -> StartError {
    let more_memory = format!(
        "no memory for its rings; raise the memlock limit (ulimit -l) to 8 MiB or more ({} KiB a shard)",
        RING_LOCKED_BYTES / 1024
    );
    let problem = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "refused; likely sysctl kernel.io_uring_disabled or a seccomp profile of the container: see README, Kernel"
        }
        Some(libc::ENOSYS) => "not in this kernel, or a seccomp profile hides it: see README, Kernel",
        Some(libc::ENOMEM) => &more_memory,
        Some(libc::EINVAL) => "this kernel lacks single-issuer rings with deferred work; use Linux 6.1 or newer",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor left; raise the limit (ulimit -n)",
        _ => "refused; see README, Kernel",
    };
    StartError::new(SUBJECT, problem).because(error)
}

const fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;
    use io_uring::squeue::Flags;

    use super::*;

    #[test]
    fn a_ring_costs_what_was_measured() {
        assert_eq!(RING_LOCKED_BYTES, (136 + 4 + 4) * 1024);
    }

    /// Whatever comes to fill the queue: only what the driver uses is carried out.
    #[test]
    fn a_ring_refuses_other_operations_and_flags() {
        let mut ring = build_ring().expect("this host has io_uring");
        enable(&ring).expect("it may be restricted");
        let allowed = opcode::AsyncCancel::new(0).build();
        let linked = opcode::AsyncCancel::new(0).build().flags(Flags::IO_LINK);
        for (entry, answer) in
            [(allowed, -libc::ENOENT), (opcode::Nop::new().build(), -libc::EACCES), (linked, -libc::EACCES)]
        {
            // SAFETY: the entry names no memory.
            unsafe { ring.submission().push(&entry) }.expect("the queue is empty");
            ring.submit_and_wait(1).expect("the ring works");
            assert_eq!(ring.completion().next().map(|entry| entry.result()), Some(answer));
        }
    }

    /// Buffers before their ring would leave the kernel with memory that is no longer ours.
    #[test]
    fn rings_of_several_shards_are_made_and_gone() {
        rings_of(3).map_err(|(made, error)| format!("{made}: {error}")).unwrap();
        assert!(features().unwrap().iter().all(|feature| feature.present));
    }
}
