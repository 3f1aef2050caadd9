//! The crash laboratory: file systems on a disk that remembers all that was written to it, and what a power cut leaves.

pub mod device;
pub mod image;
pub mod mount;
