//! What the integration tests share: the oracle, hostile streams, captures, and the real binary as a process.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "every test file is a crate of its own")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper that fails fails its test, and says why")]

pub mod captures;
pub mod disk;
pub mod fuzz;
pub mod hostile;
pub mod http;
pub mod oracle;
pub mod process;
pub mod tls;
pub mod world;

use std::path::{Path, PathBuf};

/// With this variable set to 1 a missing tool fails its test instead of skipping it.
const REQUIRE_TOOLS: &str = "ENGINE_TESTS_REQUIRE_TOOLS";

/// Whether the program is installed. If not, the skip is named on stderr, under the name of the calling test.
pub fn require_tool(tool: &str) -> bool {
    if find_tool(tool).is_some() {
        return true;
    }
    skip(&format!("{tool} is missing"));
    false
}

/// Names the calling test as skipped, or fails it where nothing may be skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var_os(REQUIRE_TOOLS).is_none_or(|value| value != "1"), "{test}: {reason}");
    eprintln!("skipped: {test}: {reason}");
}

fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
