//! Whether this host lets the driver work, asked feature by feature before anything else is touched.

use std::io;

use io_uring::{IoUring, Probe};

use super::{OPERATIONS, build_ring, enable};
use crate::error::StartError;

const SUBJECT: &str = "io_uring";

/// Makes a ring like a shard's and looks whether the kernel knows all that the driver asks of it.
///
/// # Errors
/// What is missing, and its remedy.
pub fn probe() -> Result<(), StartError> {
    let ring = build_ring().map_err(refused)?;
    let mut known = Probe::new();
    let asked = ring.submitter().register_probe(&mut known);
    asked.map_err(|error| {
        StartError::new(SUBJECT, "cannot be asked for its features; use Linux 6.1 or newer").because(error)
    })?;
    let missing = missing(&ring, &known);
    if missing.is_empty() {
        return enable(&ring).map_err(refused);
    }
    Err(StartError::new(SUBJECT, format!("this kernel lacks {}; use Linux 6.1 or newer", missing.join(", "))))
}

fn missing(ring: &IoUring, known: &Probe) -> Vec<&'static str> {
    let unknown = OPERATIONS.into_iter().filter(|(code, _)| !known.is_supported(*code));
    let mut missing: Vec<_> = unknown.map(|(_, name)| name).collect();
    if !ring.params().is_feature_ext_arg() {
        missing.push("wait with a timeout");
    }
    if !ring.params().is_feature_nodrop() {
        missing.push("completions that are never dropped");
    }
    missing
}

fn refused(error: io::Error) -> StartError {
    let problem = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "refused; likely sysctl kernel.io_uring_disabled or a seccomp profile of the container: see README, Kernel"
        }
        Some(libc::ENOSYS) => "not in this kernel, or a seccomp profile hides it: see README, Kernel",
        Some(libc::ENOMEM) => "no memory for its rings; raise the memlock limit (ulimit -l) to 8 MiB or more",
        Some(libc::EINVAL) => "this kernel lacks single-issuer rings with deferred work; use Linux 6.1 or newer",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor left; raise the limit (ulimit -n)",
        _ => "refused; see README, Kernel",
    };
    StartError::new(SUBJECT, problem).because(error)
}
