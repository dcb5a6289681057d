# Read by the other scripts (POSIX sh): how they speak, and which cargo they use.
# shellcheck shell=sh

# The oldest compiler that builds the sources; Cargo.toml's rust-version says the same.
RUST_MAJOR=1
RUST_MINOR=95

say() { printf '%s\n' "==> $*" >&2; }
warn() { printf '%s\n' "warning: $*" >&2; }
die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Is there a cargo in directory $1 that is new enough, with its rustc?
new_enough() {
    [ -x "$1/cargo" ] && [ -x "$1/rustc" ] || return 1
    version=$("$1/cargo" --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    major=${version%%.*}
    minor=${version#*.}
    minor=${minor%%.*}
    case $major$minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$major" -gt "$RUST_MAJOR" ] || { [ "$major" -eq "$RUST_MAJOR" ] && [ "$minor" -ge "$RUST_MINOR" ]; }
}

# Puts a cargo that is new enough first in PATH; false where the machine has none.
use_cargo() {
    first=$(command -v cargo 2>/dev/null || true)
    for dir in "${first%/cargo}" "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin" /usr/local/bin /usr/bin; do
        if [ -n "$dir" ] && new_enough "$dir"; then
            [ "$dir" = "${first%/cargo}" ] || PATH=$dir:$PATH
            export PATH
            return 0
        fi
    done
    return 1
}

# The directory that cargo builds into.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}"; }
