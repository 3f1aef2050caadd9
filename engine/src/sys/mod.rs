//! System calls that std lacks, as whole operations. Decides nothing.

pub mod affinity;
pub mod data_dir;
pub mod file;
pub mod host;
pub mod index_file;
pub mod listener;
mod min_ttl;
mod socket_option;
pub mod udp;

pub use data_dir::{DataDir, DataLock};
