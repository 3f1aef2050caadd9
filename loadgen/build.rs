//! Says which commit the binary is built from: `LOADGEN_COMMIT` if it is set, else what git says, else nothing.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LOADGEN_COMMIT");
    if std::env::var_os("LOADGEN_COMMIT").is_some() {
        return;
    }
    // The one changes with another branch, the other with every commit.
    let paths = ["HEAD", "logs/HEAD"].into_iter().filter_map(|name| git(&["rev-parse", "--git-path", name]));
    for path in paths.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Some(commit) = git(&["rev-parse", "--verify", "HEAD"]) {
        println!("cargo::rustc-env=LOADGEN_COMMIT={commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
