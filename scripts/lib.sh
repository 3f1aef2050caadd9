# What the scripts share; sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

# Where cargo puts what it builds in this repository.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    [[ $dir == /* ]] || dir=$root/$dir
    printf '%s\n' "$dir"
}

# Ends the script with one line that says why.
fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

# What a build needs, and where to get it.
need_build_tools() {
    command -v cargo >/dev/null ||
        fail 'cargo is missing; install Rust 1.95 or newer: https://rustup.rs, then open a new terminal' 3
    command -v cc >/dev/null ||
        fail 'a C compiler (cc) is missing; Debian and Ubuntu: apt-get install build-essential; Fedora: dnf install gcc' 3
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' | cc -x c -o /dev/null - 2>/dev/null ||
        fail 'cc cannot build a C program; Debian and Ubuntu: apt-get install build-essential; Fedora: dnf install gcc' 3
}

# Runs a command in the repository, where cargo finds its toolchain, wherever the script was called from.
in_root() {
    (cd "$root" && "$@")
}

# The folder of $1 for what is measured today, here, of this commit; nothing but that commit may be what is measured.
results_folder() {
    local changes
    changes=$(in_root git status --porcelain -- . ':!results')
    [[ -z $changes ]] || fail '--results: only of a clean checkout; commit first' 2
    printf '%s/%s-%s-%s\n' "$1" "$(date --utc +%F)" "$(uname --nodename)" "$(in_root git rev-parse --short=12 HEAD)"
}

# What a result says of how it came about: the command line $1, and the machine.
describe_machine() {
    echo "command: $1"
    echo "machine: $(uname --nodename), $(nproc) cores, $(awk '/^model name/ { sub(/.*: /, ""); print; exit }' /proc/cpuinfo)"
    echo "kernel: $(uname --kernel-release); load before: $(cut --delimiter=' ' --fields=1-3 /proc/loadavg)"
}
