#!/bin/sh
# Installs the Debian packages that are missing:   tools/install_deps.sh run|check
# Each line of `needs` asks whether something is there, in whatever way it came; only what is not is installed.
set -u
cd "$(dirname "$0")/.." || exit 1

missing=
need() { # PACKAGE COMMAND...
    package=$1
    shift
    "$@" >/dev/null 2>&1 </dev/null || missing="$missing $package"
}
header() { echo "#include <$1>" | ${2:-${CC:-cc}} -E -o /dev/null -; }
library() { echo 'int main(void) { return 0; }' | clang -x c "$1" -o /dev/null -; }
has() { command -v "$1"; }
model_or_pip() {
    [ -n "${MODEL:-}" ] || [ -f "${XDG_CACHE_HOME:-$HOME/.cache}/sparkhawk/gemma3-270m-q4_k_m.gguf" ] || python3 -m pip --version
}

needs_run() {
    need gcc has "${CC:-cc}"
    need libc6-dev header stdio.h
    need libjansson-dev header jansson.h
    need libedit-dev header histedit.h
    need libmicrohttpd-dev header microhttpd.h
    need python3 has python3
    need python3-pip model_or_pip
}
needs_check() {
    needs_run
    need make has make
    need g++ has g++
    need clang has clang
    need libclang-rt-14-dev library -fsanitize=fuzzer-no-link,address,undefined
    need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross header stdio.h aarch64-linux-gnu-gcc
    need qemu-user has qemu-aarch64
    need pkg-config has pkg-config
    need sentencepiece has spm_encode
    need shellcheck has shellcheck
    need groff has groff
    need chromium has chromium
    need mypy has mypy
    need libopenmpi-dev has mpicc
    need openmpi-bin has mpirun
    need zsh has zsh
    need fish has fish
    need curl has curl
    need python3-venv python3 -c 'import ensurepip'
}

# the client that the service is tested with, which Debian does not have
venv=${XDG_CACHE_HOME:-$HOME/.cache}/sparkhawk/venv
python_client() {
    "$venv/bin/python" -c 'import openai' 2>/dev/null && return
    { python3 -m venv "$venv" && "$venv/bin/pip" install -q openai; } >&2 ||
        echo "$0: no openai client: some tests will be skipped" >&2
}

case ${1:-} in
run | check) "needs_$1" ;;
*) echo "usage: $0 run|check" >&2 && exit 2 ;;
esac
finish() {
    [ "$1" != check ] || python_client
    exit 0
}
[ -n "$missing" ] || finish "$1"

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root=sudo
    [ -t 0 ] || as_root='sudo -n'
fi
if ! has apt-get >/dev/null || { [ -n "$as_root" ] && ! has sudo >/dev/null; }; then
    echo "$0: these packages are needed and cannot be installed from here:$missing" >&2
    echo "On Debian or Ubuntu, as root: apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing" >&2
log=$(mktemp)
# shellcheck disable=SC2086 # words, all of them
if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
    -qq -y --no-install-recommends install $missing; } >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    echo "$0: could not install:$missing (all of it: $log)" >&2
    echo "As root, with a network: apt-get install$missing" >&2
    exit 1
fi
rm -f "$log"
finish "$1"
